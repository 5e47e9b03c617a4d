"""The environment contract: a worker that knows what to do from its environment alone. No Prefect, no parent, no budget.

    docker run --gpus all -e WORKER_ID=0 -e TOTAL_WORKERS=5 -e S3_INPUT_BUCKET=... -e S3_OUTPUT_BUCKET=... IMAGE

converts the documents whose index modulo 5 is 0 and ends. Workers that are started independently join one run (tasks/joining.py).
Nobody relaunches a worker that died and nobody takes its partition over: starting the same WORKER_ID again goes on with it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tasks.cloudwatch import shipping
from tasks.corpus import paths
from tasks.corpus.failures import PdfFlowsError, StoreError, UsageError
from tasks.corpus.lives import NumberTaken, numbers
from tasks.corpus.partition import partitions_of_worker
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import Store, check_readable, open_store
from tasks.engines.dolphin.settings import DolphinOptions
from tasks.engines.protocol import EngineName, Limits, Rendering
from tasks.failure_mirror import FailureMirror
from tasks.joining import join_run
from tasks.options import LauncherName, Options, options_of
from tasks.passwords import PREFECT_SECRET, SECRETS_MANAGER, read_passwords
from tasks.plan import Stores, open_stores
from tasks.share import Predecessors, Share, report_if_last, share_of
from tasks.waking import waking_main
from tasks.worker import Summary, Worker, WorkerSettings

DONE, FAILURES, USAGE, STOPPED = 0, 1, 2, 3
"""Exit statuses, as of `pdf-flows convert`."""
HEARD = (signal.SIGTERM, signal.SIGINT)
LIVES = 10
"""In one process, for what others gave back or left: each has to get on."""
FURTHER = frozenset(
    {*Limits.model_fields, *Rendering.model_fields, *DolphinOptions.model_fields, "slots", "max_failure_rate"}
)
"""What OPTIONS may set: options of `pdf-flows convert`, by their names."""


class Contract(BaseSettings):
    """The environment variables, by the names that the original design gave them."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    worker_id: int = Field(ge=0)
    """Which of the workers this is, from 0."""
    total_workers: int = Field(ge=1, le=1000)
    """How many there are: documents are dealt to them by modulo."""
    s3_input_bucket: str
    """The bucket with the PDFs."""
    s3_input_prefix: str = ""
    """Where in it; default: all of it."""
    s3_output_bucket: str
    """The bucket for the Markdown."""
    s3_output_prefix: str = ""
    """Where in it."""
    aws_default_region: str = Field(validation_alias=AliasChoices("AWS_DEFAULT_REGION", "AWS_REGION"))
    """Of the buckets; AWS_REGION does as well."""
    max_retries: int = Field(2, ge=0, le=20)
    """How often a document is tried again after a transient error."""
    run_id: str | None = None
    """Default: a hash of the listing and of the run's parameters, so that workers started with the same ones join one run."""
    engine: EngineName = EngineName.DOLPHIN
    """What turns pages into Markdown."""
    retry_failed: bool = False
    """Also try documents again that failed for good before."""
    password_file: str | None = None
    """Passwords for encrypted PDFs: a mounted file (one a line) or secretsmanager:NAME."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many documents, in the order of their names."""
    options: dict[str, Any] = {}
    """JSON: further options of `pdf-flows convert`, such as {"page_timeout": 300, "front_matter": true}."""
    beat_seconds: float = Field(15.0, ge=0.1, le=15.0)
    """Between two heartbeats."""

    @field_validator("s3_input_bucket", "s3_output_bucket")
    @classmethod
    def _bare(cls, name: str) -> str:
        if "/" in name or ":" in name:
            raise ValueError("only the bucket's name, without s3:// and without a prefix")
        return name

    @field_validator("s3_input_prefix", "s3_output_prefix")
    @classmethod
    def _one_spelling(cls, prefix: str) -> str:
        return prefix.strip("/")

    @field_validator("password_file")
    @classmethod
    def _without_prefect(cls, reference: str | None) -> str | None:
        if reference is not None and reference.startswith(PREFECT_SECRET):
            raise ValueError(f"a Prefect Secret needs Prefect: a mounted file's path, or {SECRETS_MANAGER}NAME")
        return reference

    @property
    def input(self) -> str:
        """The input root's address."""
        return _url(self.s3_input_bucket, self.s3_input_prefix)

    @property
    def output(self) -> str:
        """The output root's address."""
        return _url(self.s3_output_bucket, self.s3_output_prefix)

    def run_options(self) -> Options:
        """What the run is asked to do. Raises UsageError naming the bad option."""
        if unknown := sorted(self.options.keys() - FURTHER):
            raise UsageError(f"OPTIONS: there is no option {unknown[0]!r} ({', '.join(sorted(FURTHER))})")
        return options_of(
            input=self.input,
            output=self.output,
            workers=self.total_workers,
            engine=self.engine,
            retries=self.max_retries,
            retry_failed=self.retry_failed,
            password_file=self.password_file,
            limit=self.limit,
            run_id=self.run_id,
            steal=False,
            # Each worker has a machine of its own, as those of a work pool have.
            launcher=LauncherName.WORK_POOL,
            **self.options,
        )


def _url(bucket: str, prefix: str) -> str:
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


def read_contract(given: Mapping[str, str] | None = None) -> Contract:
    """The environment, by default the process's. Raises UsageError: one line with the variable and what is wrong with it."""
    try:
        contract = Contract() if given is None else _contract_of(given)()
    except SettingsError:
        raise UsageError("OPTIONS is no JSON object: write OPTIONS='{\"page_timeout\": 300}'") from None
    except ValidationError as error:
        raise UsageError(_complaint(error)) from None
    if contract.worker_id >= contract.total_workers:
        raise UsageError(
            f"WORKER_ID={contract.worker_id} with TOTAL_WORKERS={contract.total_workers}: workers are numbered from 0 to "
            f"{contract.total_workers - 1}"
        )
    return contract


def _contract_of(given: Mapping[str, str]) -> type[Contract]:
    class Given(Contract):
        """Of these variables, whatever the process's are."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            source = EnvSettingsSource(settings_cls)
            source.env_vars = {name.lower(): value for name, value in given.items() if value}
            return (source,)

    return Given


def _complaint(error: ValidationError) -> str:
    problems = error.errors()
    missing = [str(problem["loc"][0]).upper() for problem in problems if problem["type"] == "missing"]
    if missing:
        return f"not set: {', '.join(missing)} (docs/image.md says what they mean)"
    first = problems[0]
    why = str(first["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(str(part) for part in first['loc']).upper()}={first['input']}: {why[0].lower()}{why[1:]}"


class Terminated(BaseException):
    """SIGTERM while no document can be in hand."""


class Signals:
    """SIGTERM and SIGINT: drain the worker; where there is none, end at once."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self.told = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """While they are. Raises Terminated where one came before that could be handled."""
        for number in HEARD:
            signal.signal(number, self._handle)
        try:
            with waking_main():
                # The entrypoint held them back while this process was loading what it needs.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
                yield
        finally:
            for number in HEARD:
                # From here on there is nothing to save; a signal now must not turn the exit status into a signal's.
                signal.signal(number, signal.SIG_IGN)

    def live(self, worker: Worker) -> Summary:
        """A worker's life, drained by a signal."""
        self._worker = worker
        try:
            if self.told:
                raise Terminated
            return worker.run()
        finally:
            self._worker = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        worker = self._worker
        if worker is None:
            raise Terminated
        # In a thread: the handler runs in the midst of anything, also where a lock is held that draining takes.
        threading.Thread(target=worker.drain, args=("terminated",), daemon=True).start()


class PartitionWorker:
    """A process's work: as many lives as it takes until nothing of its partition is left that is free."""

    def __init__(self, contract: Contract, log: logging.Logger, signals: Signals) -> None:
        self._contract, self._log, self._signals = contract, log, signals

    def run(self) -> int:
        """Exit status. Raises UsageError before any work, StoreError where not even its account can be read."""
        contract, log = self._contract, self._log
        options = contract.run_options()
        passwords = read_passwords(options.password_file)
        if options.dolphin is not None:
            from tasks.weights import check_model

            check_model(options.dolphin, options.slots)
        stores = open_stores(options)
        check_readable(stores[0])
        spec = join_run(options, stores, log)
        with shipping(contract.worker_id, spec.run_id):
            return self._convert(options, spec, stores, passwords)

    def _convert(self, options: Options, spec: RunSpec, stores: Stores, passwords: list[str]) -> int:
        contract, log = self._contract, self._log
        _, output, runs = stores
        log.info(
            "[Worker %d] Run %s: partition %d of %d, %d documents in all",
            contract.worker_id,
            spec.run_id,
            contract.worker_id,
            contract.total_workers,
            spec.documents,
        )
        place = open_store(f"s3://{contract.s3_output_bucket}", writable=True)
        with FailureMirror(runs, spec, contract.worker_id, place, contract.s3_output_prefix, log) as mirror:
            share = self._lives(options, spec, stores, passwords)
            if share is None:
                self._go_on(spec)
                return STOPPED
            mirror.settle(share.result)
        log.info("[Worker %d] Partition %d: %s", contract.worker_id, contract.worker_id, share.line)
        if share.exit_code != STOPPED:
            self._report(options, spec, runs, output)
        else:
            self._go_on(spec)
        return share.exit_code

    def _lives(self, options: Options, spec: RunSpec, stores: Stores, passwords: list[str]) -> Share | None:
        """What its partition came to; None where it was stopped before its end."""
        worker = self._contract.worker_id
        _, output, runs = stores
        mine = partitions_of_worker(worker, self._contract.total_workers, spec.partitions)
        before = Predecessors(runs, spec)
        share: Share | None = None
        for _ in range(LIVES):
            summary = self._live(before, lambda number: self._settings(options, spec, runs, number), passwords)
            if summary.stopped is not None:
                return None
            remaining = share.result.account.remaining if share is not None else None
            share = share_of(runs, output, spec, mine)
            if not share.left or (remaining is not None and share.result.account.remaining >= remaining):
                break
            # Held by lives that this one could not tell from living ones, or left as too long for a machine that may go: there
            # is no other worker that they could be left to.
            if held := before.of_documents(share.left):
                names = ", ".join(sorted(f"{holder.worker}/{holder.attempt}" for holder in held))
                self._log.warning(
                    "[Worker %d] Some of its documents are in the hands of other lives: %s", worker, names
                )
                break
        return share

    def _live(self, before: Predecessors, settings: Callable[[int], WorkerSettings], passwords: list[str]) -> Summary:
        """The next life, once all before it are over. Raises UsageError where one goes on working."""
        while True:
            number = before.of_worker(self._contract.worker_id)
            try:
                return self._signals.live(Worker(settings(number), self._log, passwords=passwords))
            except NumberTaken:
                # The same WORKER_ID was started at the same moment, and was faster: it is at work, or died since.
                continue

    def _settings(self, options: Options, spec: RunSpec, runs: Store, number: int) -> WorkerSettings:
        # A number of its own for each life, and none of a parent's: failures that may pass are tried again by the next one, and
        # nobody waits for the heartbeat of a parent that this life never had.
        epoch = max([number, *(parent + 1 for parent in numbers(runs, paths.parents(spec.run_id)))])
        return WorkerSettings(
            runs=options.runs_url,
            run_id=spec.run_id,
            worker=self._contract.worker_id,
            workers=self._contract.total_workers,
            epoch=epoch,
            attempt=number,
            retries=options.retries,
            retry_failed=options.retry_failed,
            steal=False,
            device_slots=options.slots,
            beat_seconds=self._contract.beat_seconds,
        )

    def _report(self, options: Options, spec: RunSpec, runs: Store, output: Store) -> None:
        try:
            report_if_last(runs, output, spec, options.max_failure_rate, self._log)
        except StoreError as error:
            self._log.warning("The run's report could not be written: %s", error)

    def _go_on(self, spec: RunSpec) -> None:
        k = self._contract.worker_id
        self._log.warning(
            "[Worker %d] Stopped before its end (run %s): start WORKER_ID=%d again to go on", k, spec.run_id, k
        )


def main() -> int:
    """Exit status: 0 all of its partition converted or skipped, 1 some failed, 2 bad usage, 3 stopped before its end."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S", stream=sys.stderr
    )
    for noisy in ("botocore", "boto3", "urllib3", "s3transfer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    log = logging.getLogger("pdf_flows.worker")
    signals = Signals()
    try:
        with signals.heard():
            contract = read_contract()
            os.environ.setdefault("AWS_DEFAULT_REGION", contract.aws_default_region)
            return PartitionWorker(contract, log, signals).run()
    except UsageError as error:
        log.error("%s", error)  # noqa: TRY400 - one line is what a person needs
        return USAGE
    except Terminated:
        log.warning("Terminated before any document was in hand: start it again to go on")
        return STOPPED
    except PdfFlowsError as error:
        log.error("%s; start it again to go on", error)  # noqa: TRY400
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
