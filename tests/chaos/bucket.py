"""A bucket with an input and an output, and what it has to hold in the end."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

from chaos.harness import Place


class Bucket:
    """An input and an output in a bucket that keeps every version of every object."""

    def __init__(self, moto: Any) -> None:
        self.client = moto.client
        self.url = moto.new_bucket()
        self.name = self.url.removeprefix("s3://")
        self.client.put_bucket_versioning(Bucket=self.name, VersioningConfiguration={"Status": "Enabled"})

    def fill(self, count: int, script: str) -> None:
        for number in range(count):
            body = f"%PDF-dummy {script}\n{number}\n".encode()
            self.client.put_object(Bucket=self.name, Key=f"in/doc-{number:03}.pdf", Body=body)

    def versions(self) -> Counter[str]:
        """How often each output was written."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix="out/doc-")
        return Counter(version["Key"] for page in pages for version in page.get("Versions", []))

    def markdown(self) -> set[str]:
        return {key for key in self.versions() if key.endswith(".md")}

    def text(self, key: str) -> str:
        return str(self.client.get_object(Bucket=self.name, Key=key)["Body"].read().decode())


def check_bucket(bucket: Bucket, place: Place, count: int, script: str) -> None:
    """Everything is there, is its own document's, and was written once."""
    versions = bucket.versions()
    assert bucket.markdown() == {f"out/doc-{number:03}.md" for number in range(count)}
    assert {key: times for key, times in versions.items() if times > 1} == {}
    for number in range(count):
        source = hashlib.sha256(f"%PDF-dummy {script}\n{number}\n".encode()).hexdigest()
        asset = f"asset 0 of {source}\n"
        name = f"doc-{number:03}.assets/{hashlib.sha256(asset.encode()).hexdigest()}.txt"
        assert name in bucket.text(f"out/doc-{number:03}.md")
        assert bucket.text(f"out/{name}") == asset
    # A document that failed while the store was away is converted by a run of its own.
    runs = json.loads(place.call("runs", place.output_url, "--json").stdout)["runs"]
    accounts = [place.audit(run["run_id"]) for run in runs]
    assert sum(account["converted"] for account in accounts) == count
    assert [(account["duplicates"], account["lost"]) for account in accounts] == [(0, 0)] * len(accounts)
