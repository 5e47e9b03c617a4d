"""What `pdf-flows rehearse` is put together from: the trouble asked for, the market, the prediction, and who is left."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.aws.planned_run import planned_run
from deployments.rehearsal.clock import SPEED, here
from deployments.rehearsal.faulty_s3 import FaultyS3
from deployments.rehearsal.market import HIGHEST, HOUR, LOWEST, Market, history, price
from deployments.rehearsal.play import chosen, pdfs_of
from deployments.rehearsal.prediction import Prediction, predict
from deployments.rehearsal.trouble import Given, Kind, Trouble, trouble_of
from tasks.corpus.failures import UsageError
from tasks.fleet.machine import Lifecycle, Machine
from tasks.fleet.price_table import ON_DEMAND
from tasks.fleet.prices import AwsPrices


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((-1, None, None, False), "bad --interruptions -1: give 0 to 50"),
        ((0, "ten", None, False), "bad --no-capacity: 'ten' is no duration: write 48h, 90m, 2d or 1d12h"),
        ((0, "0s", None, False), "bad --no-capacity '0s': give 1s to 120m of the rehearsal's clock"),
        ((0, "3h", None, False), "bad --no-capacity '3h': give 1s to 120m of the rehearsal's clock"),
        ((0, None, "60%", False), "bad --s3-errors '60%': give a share from 0% to 50%, such as 5% or 0.05"),
        ((0, None, "nan", False), "bad --s3-errors 'nan': give a share from 0% to 50%, such as 5% or 0.05"),
    ],
)
def test_bad_trouble_is_one_line(options: Any, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        trouble_of(*options)
    assert str(refused.value) == said


def test_trouble_comes_in_an_order_and_what_did_not_come_is_named() -> None:
    asked = trouble_of(3, "10m", "5%", True)
    assert (asked.no_capacity, here(asked.no_capacity), asked.s3_errors) == (600.0, 100.0, 0.05)
    assert asked.words == (
        "3 Spot interruptions, no capacity for 10 min (100 s here), 5.0% of S3's requests fail, the parent is killed"
    )
    # The first machine goes as the drought begins, and the parent while somebody waits.
    cut = Kind.INTERRUPTION
    assert asked.blows == (Kind.DROUGHT, cut, Kind.PARENT, cut, cut)
    assert Trouble().blows == ()
    assert (Trouble().words, Given().missing(Trouble())) == ("none", [])
    assert Given(interruptions=1, s3_requests={"passed": 9}).missing(asked) == [
        "1 of 3 interruptions",
        "no drought",
        "no kill of the parent",
        "no failed request to S3",
    ]
    whole = Given(interruptions=3, droughts=1, parents_killed=1, s3_requests={"passed": 9, "error": 1})
    assert whole.missing(asked) == []


# -- the market -----------------------------------------------------------------------------------------------------


def test_the_run_s_own_prices_believe_the_market() -> None:
    machine = Machine(id="i-1", type="g4dn.xlarge", region="us-east-1", zone="us-east-1a", lifecycle=Lifecycle.SPOT)
    with Market("us-east-1") as market:
        # Making one takes longer than all of the rest.
        client = boto3.session.Session("x", "x", region_name="us-east-1").client("ec2", endpoint_url=market.url)
        quote = AwsPrices(lambda region: client).hourly(machine, 3 * HOUR)
        assert quote.source == "EC2 price history"
        assert quote.age is not None
        assert LOWEST * 0.526 <= quote.usd_per_hour <= quote.highest <= HIGHEST * 0.526 + 1e-4
        with pytest.raises(ClientError, match="InvalidAction"):
            client.describe_instances()
        unknown = client.describe_spot_price_history(InstanceTypes=["x1.large"], StartTime=datetime.now(UTC))
        assert unknown["SpotPriceHistory"] == []
        since = datetime.now(UTC) - timedelta(seconds=10 * HOUR)
        answer = client.describe_spot_price_history(InstanceTypes=["g5.xlarge"], StartTime=since)
    times = [item["Timestamp"].timestamp() for item in answer["SpotPriceHistory"]]
    assert times == sorted(times, reverse=True)
    assert times[-1] <= since.timestamp() < times[-2], "as far back as was asked, and the change before"


def test_an_hour_of_the_rehearsal_s_clock_has_one_price_and_the_last_change_before_is_told() -> None:
    assert HOUR == 3600 / SPEED
    now = 1_000_000 * HOUR + 5
    points = history("g6.xlarge", "us-east-1b", now - 2 * HOUR, now)
    assert [at for at, _ in points] == [1_000_000 * HOUR, 999_999 * HOUR, 999_998 * HOUR]
    assert points[0][1] == price("g6.xlarge", "us-east-1b", 1_000_000)
    assert len({price("g6.xlarge", "us-east-1b", hour) for hour in range(50)}) > 20, "it moves"


# -- the prediction -------------------------------------------------------------------------------------------------

counts = st.lists(st.integers(0, 500), min_size=1, max_size=60).filter(any)


@settings(deadline=None)
@given(counts, st.integers(1, 10**6), st.integers(3, 5))
def test_the_likely_figure_lies_in_its_band(pages: list[int], population: int, workers: int) -> None:
    found = predict(planned_run(workers=workers), pages, population)
    for one in found.types:
        assert one.usd.low <= one.usd.likely <= one.usd.high
        assert one.hours.low <= one.hours.likely <= one.hours.high
    assert found.usd.low <= found.usd.likely <= found.usd.high
    assert found.pages_error >= 0
    assert found.documents == population
    assert all("NaN" not in line and "inf" not in line for line in found.lines())


def test_pages_that_are_given_have_no_error_and_a_measured_pace_has_no_band() -> None:
    def of(**more: Any) -> Prediction:
        return predict(planned_run(workers=5, **more), [10, 20, 30], 3)

    assert (of().pages, of().pages_error, of().sample) == (60, 0, 3), "all of them were counted"
    assert of(documents=2).pages == 40
    many = of(documents=4000)
    assert (many.pages, many.sample) == (80_000, 3)
    assert many.pages_error > 10_000, "three documents say little"
    given = of(pages=80_000)
    assert (given.pages_error, given.documents, given.sample) == (0, None, None)
    assert given.usd.high < many.usd.high
    planned = next(one for one in given.types if one.type == "g4dn.xlarge")
    measured = next(one for one in of(pages=80_000, rates=["g4dn.xlarge=0.23"]).types if one.type == "g4dn.xlarge")
    assert planned.hours.low < planned.hours.likely == measured.hours.low == measured.hours.high < planned.hours.high
    assert measured.usd.low < measured.usd.likely < measured.usd.high, "prices have theirs all the same"
    # The most it can be: the slowest pace at the on-demand price, by hand: machine hours, start and teardown left out.
    assert planned.usd.high > 80_000 / (0.23 * 0.8) / 3600 * ON_DEMAND["g4dn.xlarge"]


# -- what is converted ----------------------------------------------------------------------------------------------


def test_a_sample_is_the_same_each_time_and_copies_have_other_names(tmp_path: Path) -> None:
    for name in ("a.pdf", "b/c.PDF", "d.txt", "e.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = pdfs_of(tmp_path)
    assert list(found) == ["a.pdf", "b/c.PDF", "e.pdf"]
    assert chosen(found, 9, 1) == found
    assert sorted(chosen(found, 9, 2)) == [
        "a.pdf",
        "b/c.PDF",
        "copy-2/a.pdf",
        "copy-2/b/c.PDF",
        "copy-2/e.pdf",
        "e.pdf",
    ]
    two = chosen(found, 2, 1)
    assert (len(two), two) == (2, chosen(found, 2, 1))


# -- who is left ----------------------------------------------------------------------------------------------------

FORSAKEN = """
import os, subprocess, sys, time
from deployments.rehearsal import offspring
assert offspring.keep_orphans()
# A child that leaves a child of its own in another session, and ends.
middle = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3, stderr=-3, start_new_session=True).pid)"
done = subprocess.run([sys.executable, "-c", middle], capture_output=True, text=True, check=True)
pid = int(done.stdout)
found = offspring.living()
assert found == {pid: "sleep 60"}, found
run = subprocess.Popen(["sleep", "61"], stdout=-3, stderr=-3, env={"PATH": os.environ["PATH"], "PREFECT__FLOW_RUN_ID": "abc"})
until = time.monotonic() + 10
while offspring.of_flow_run("abc") != [run.pid]:
    assert time.monotonic() < until
    time.sleep(0.02)
assert offspring.of_flow_run("ab") == []
assert set(offspring.end(patience=0.2)) == {pid, run.pid}
while offspring.living():
    assert time.monotonic() < until
    time.sleep(0.02)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are told by /proc")
def test_orphans_are_told_and_ended() -> None:
    done = subprocess.run([sys.executable, "-c", FORSAKEN], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


# -- S3 in trouble --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cut",
    [
        b"Content-Length: 10\r\n\r\nhal",
        b"Content-Length: 10\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n5\r\nha",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nwhole\r\n",
    ],
)
def test_a_request_whose_client_died_while_it_sent_is_not_taken(moto_s3: Any, cut: bytes) -> None:
    bucket = moto_s3.new_bucket().removeprefix("s3://")
    with FaultyS3(moto_s3.url) as proxy:
        where = urlsplit(proxy.url)
        with socket.create_connection((where.hostname, where.port)) as client:
            client.sendall(f"PUT /{bucket}/key HTTP/1.1\r\nHost: {where.netloc}\r\n".encode() + cut)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == b"", "no answer, and by now it would have been passed on"
    assert moto_s3.client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
