"""Is the device ever hungry? Real PDFs from S3 (moto, every request 50 ms late) through a whole worker; the device only sleeps.

    .venv/bin/python tests/benchmarks/dolphin_starvation.py --corpus FOLDER [--documents 40] [--slots 48] [--json]

`busy` is the share of the time between the first request and the last answer in which the device had something to do.
Its times are a T4's (tests/benchmarks/sleeping_device.py) times 4 / cores: a g4dn.xlarge has 4 vCPUs to feed it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pymupdf

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

import tasks.pool  # noqa: E402
import tasks.worker  # noqa: E402
from deployments.rehearsal.faulty_s3 import FaultyS3  # noqa: E402
from tasks.cores import usable_cores  # noqa: E402
from tasks.engines.dolphin.pool import DolphinPool  # noqa: E402
from tasks.engines.protocol import EngineName  # noqa: E402
from tasks.options import options_of  # noqa: E402
from tasks.plan import plan_run  # noqa: E402
from tasks.worker import Worker, WorkerSettings  # noqa: E402

LATENCY = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--most-pages", type=int, default=12, help="larger documents are left out")
    parser.add_argument("--slots", type=int, default=48)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = measure(choose(arguments.corpus, arguments.documents, arguments.most_pages), arguments.slots)
    if arguments.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        for name, value in report.items():
            sys.stdout.write(f"{name:<20} {value}\n")


def choose(corpus: Path, count: int, most_pages: int) -> list[Path]:
    """Documents of all kinds but the hostile ones, the same in every run."""
    found = []
    files = sorted(corpus.rglob("*.pdf"))
    random.Random(3).shuffle(files)
    for file in files:
        if "hostile" in file.parts or len(found) == count:
            continue
        try:
            with pymupdf.open(file) as document:
                if not document.needs_pass and 0 < len(document) <= most_pages:
                    found.append(file)
        except (RuntimeError, ValueError):
            continue
    return found


def measure(documents: list[Path], slots: int) -> dict[str, Any]:
    """One worker's life over the documents."""
    cores = usable_cores()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    pools: list[DolphinPool] = []
    real = tasks.worker.open_pool

    def sleeping(*args: Any, **options: Any) -> Any:
        pool = real(*args, **options)
        assert isinstance(pool, DolphinPool)
        pool._module = "tests.benchmarks.sleeping_device"
        closing = pool.close

        def close() -> None:
            stats.update(pool.stats())
            closing()

        pool.close = close  # type: ignore[method-assign]
        pools.append(pool)
        return pool

    stats: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as empty, FaultyS3(f"http://{host}:{port}", delay=LATENCY) as proxy:
        os.environ |= {"AWS_ENDPOINT_URL": proxy.url, "AWS_CONFIG_FILE": f"{empty}/none"}
        tasks.worker.open_pool = sleeping  # type: ignore[assignment]
        try:
            client = boto3.session.Session().client("s3", region_name="us-east-1", endpoint_url=f"http://{host}:{port}")
            client.create_bucket(Bucket="benchmark")
            for number, document in enumerate(documents):
                client.put_object(
                    Bucket="benchmark", Key=f"in/{number:03d}-{document.name}", Body=document.read_bytes()
                )
            options = options_of(
                input="s3://benchmark/in", output="s3://benchmark/out", workers=1, engine=EngineName.DOLPHIN,
                model=str(HERE.parent / "parity" / "checkpoints" / "1.5"), generation="1.5",
            )  # fmt: skip
            planned = plan_run(options)
            settings = WorkerSettings(
                runs=options.runs_url, run_id=planned.spec.run_id, worker=0, workers=1, device_slots=slots
            )
            began = time.monotonic()
            summary = Worker(settings, logging.getLogger("benchmark")).run()
            seconds = time.monotonic() - began
        finally:
            tasks.worker.open_pool = real
            server.stop()
    return {
        "busy": round(stats["busy"] / stats["span"], 4),
        "device_time_factor": 4 / cores,
        "cores": cores,
        "documents": len(documents),
        "converted": summary.converted,
        "failed": summary.failed,
        "pages": summary.pages,
        "pages_per_second": round(summary.pages / stats["span"], 3),
        "rows_a_step": round(stats["rows"] / stats["steps"], 1),
        "slots": slots,
        "span_seconds": round(stats["span"], 1),
        "life_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
