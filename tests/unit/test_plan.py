"""Planning: names that never meet, what is done or hopeless is marked, and the right run goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from conftest import MotoS3
from hypothesis import given
from hypothesis import strategies as st
from lives_kit import Case, Cases, Faults, cases, documents

from tasks.account import conclude
from tasks.corpus import names
from tasks.corpus.failures import Category, Failure, Phase, UsageError
from tasks.corpus.ledger import Outcome
from tasks.corpus.manifest import Row
from tasks.corpus.runs import RunSpec
from tasks.corpus.store import ObjectInfo
from tasks.engines.dolphin.settings import DolphinOptions, MarkdownMode
from tasks.engines.protocol import EngineName, Limits
from tasks.options import Options
from tasks.plan import Selection, freeze, open_stores, plan_run
from tasks.previous import Previous
from tasks.selection import select


@pytest.fixture
def new_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cases]:
    with cases(monkeypatch) as make:
        yield make


# -- freeze ----------------------------------------------------------------------------------------------------------

stems = st.text(st.sampled_from("aAbBéÉeß\u0301 .~%_\n"), max_size=4) | st.sampled_from(
    ["_runs", "x.assets", "x.md", "..", ".", "", "CON", "a" * 300, "é" * 130, "%2E", "%5Fruns", ".pdf-flows-tmp-1"]
)
keys = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
    st.lists(stems, max_size=2),
    stems,
    st.sampled_from([".pdf", ".PDF", ".Pdf", ".pdf.pdf", ".PDF.pdf"]),
)


def listing(some: Iterator[str] | set[str] | list[str]) -> Iterator[ObjectInfo]:
    return iter([ObjectInfo(key, 1, "e") for key in sorted(some, key=lambda k: k.encode("utf-8", "surrogatepass"))])


@given(st.sets(keys, max_size=30))
def test_no_two_documents_meet_in_a_name_however_a_folder_compares_them(some: set[str]) -> None:
    rows = list(freeze(listing(some), set(), Previous()))
    assert [row.index for row in rows] == list(range(len(some)))
    assert {row.key for row in rows} == some
    assert len({names.collision_key(row.name) for row in rows}) == len(rows)
    for row in rows:
        assert row.name.endswith(".md")
        assert not row.name.startswith("_runs/")
        assert all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in row.name.split("/"))
        assert len(row.name.encode()) <= 1024


def test_a_settled_name_that_another_document_has_by_nature_is_settled_again() -> None:
    settled = names.settle(names.output_name("a.pdf"), "a.pdf").removesuffix(".md")
    wicked = {"A.pdf", "a.pdf", f"{settled.upper()}.pdf"}
    rows = list(freeze(listing(wicked), set(), Previous()))
    assert len({names.collision_key(row.name) for row in rows}) == 3


@given(st.sets(keys, max_size=15))
def test_the_same_listing_gives_the_same_names(some: set[str]) -> None:
    assert list(freeze(listing(some), set(), Previous())) == list(freeze(listing(some), set(), Previous()))


PERMANENT = Failure(category=Category.DAMAGED, phase=Phase.OPEN, message="beyond repair", retryable=False)


@given(
    st.sets(st.sampled_from("abcdef"), min_size=1),
    st.sets(st.sampled_from("abcdef")),
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 2), st.sampled_from("ef"))),
    st.booleans(),
    st.booleans(),
)
def test_done_and_carried_over(
    given_: set[str],
    done: set[str],
    failed: dict[str, tuple[int, str]],
    overwrite: bool,
    retry_failed: bool,
) -> None:
    previous = Previous(failures={f"{k}.pdf": (size, etag, PERMANENT) for k, (size, etag) in failed.items()})
    outputs = {f"{k}.md" for k in done}
    rows = freeze(
        listing([f"{k}.pdf" for k in given_]), outputs, previous, overwrite=overwrite, retry_failed=retry_failed
    )
    for row in rows:
        stem = row.key[0]
        assert row.done == (stem in done and not overwrite)
        same = failed.get(stem) == (1, "e")
        assert (row.failure is not None) == (same and not retry_failed and not row.done)


def test_a_name_that_is_not_utf8_is_one_failed_row() -> None:
    some = ["a.pdf", "latin1-\udce9.pdf", "z.pdf"]
    rows = list(freeze(listing(some), set(), Previous(), retry_failed=True))
    assert [row.failure.category if row.failure else None for row in rows] == [None, Category.NAME, None]
    assert rows[1].key == "latin1-\\xe9.pdf"
    for row in rows:
        row.key.encode()


def test_a_selection_takes_only_its_own_with_the_names_they_had() -> None:
    chosen = Selection(run_id="r", documents={"A.pdf": "A~1.md", "gone.pdf": "gone.md"}, replace=frozenset({"A.pdf"}))
    previous = Previous(failures={"A.pdf": (1, "e", PERMANENT)})
    rows = list(freeze(listing(["A.pdf", "a.pdf", "\udce9.pdf"]), {"A~1.md"}, previous, selection=chosen))
    assert [(row.index, row.key, row.name, row.done, row.failure) for row in rows] == [
        (0, "A.pdf", "A~1.md", False, None)
    ]


# -- runs that follow runs -------------------------------------------------------------------------------------------


def whole(case: Case, *, epoch: int = 0, selection: Selection | None = None, **changes: object) -> RunSpec:
    """A whole call: plan, one worker's life, report."""
    if selection is not None:
        case.local.process = case._dead()
        spec = plan_run(case.options, selection, sleep=lambda seconds: None).spec
        case.local.process = None
    else:
        spec = case.plan(**changes).spec
    case.live(spec, epoch=epoch, retry_failed=bool(changes.get("retry_failed")))
    report(case, spec)
    return spec


def report(case: Case, spec: RunSpec) -> None:
    conclude(case.runs, case.output, spec, stopped=None, seconds=1.0, pages_before=0, max_failure_rate=1.0)


def retry_of(case: Case, spec: RunSpec, category: str | None = None, partial: bool = False) -> Selection:
    """What `pdf-flows retry` would convert again."""
    return select(
        case.options.output,
        run_id=spec.run_id,
        runs=None,
        category=category,
        partial=partial,
        documents=None,
        workers=1,
        retries=0,
        password_file=None,
    )[0][1]


def tried(case: Case, spec: RunSpec) -> set[str]:
    """Documents that any life of the run did something about."""
    return {record.key for record in case.records(spec)}


MIXED = documents(2, bad="fail=DAMAGED", busy="fail=STORE retryable=yes", secret="fail=ENCRYPTED")


def test_permanent_failures_are_carried_over_through_run_after_run(new_case: Cases) -> None:
    case = new_case(MIXED)
    first = whole(case)
    account = case.account(first)
    assert (account.converted, account.failed, account.remaining) == (2, 3, 0)
    for _ in range(2):
        later = whole(case)
        assert later.run_id != first.run_id
        account = case.account(later)
        assert (account.skipped, account.failed, account.remaining, account.closes) == (2, 3, 0, True)
        assert tried(case, later) == {"busy.pdf"}
        first = later
    assert tried(case, whole(case, retry_failed=True)) == {"bad.pdf", "busy.pdf", "secret.pdf"}
    assert tried(case, whole(case)) == {"busy.pdf"}


def test_what_changed_is_tried_again(new_case: Cases) -> None:
    case = new_case(MIXED)
    whole(case)
    case.put({"bad.pdf": b"%PDF-dummy pages=2\nmended\n"})
    later = whole(case)
    assert tried(case, later) == {"bad.pdf", "busy.pdf"}
    assert case.account(later).converted == 1


def test_other_limits_try_again(new_case: Cases) -> None:
    case = new_case(MIXED)
    whole(case)
    assert tried(case, whole(case, limits=Limits(memory_mb=2048))) == {"bad.pdf", "busy.pdf", "secret.pdf"}


def test_a_smaller_run_between_two_whole_ones_forgets_nothing(new_case: Cases) -> None:
    case = new_case(MIXED)
    whole(case)
    whole(case, limit=1)
    assert tried(case, whole(case)) == {"busy.pdf"}


def test_a_retry_decides_for_the_runs_after_it(new_case: Cases) -> None:
    case = new_case(MIXED)
    first = whole(case)
    selection = retry_of(case, first, category="DAMAGED")
    assert selection.documents == {"bad.pdf": "bad.md"}
    again = whole(case, selection=selection)
    assert (again.retry_of, tried(case, again)) == (first.run_id, {"bad.pdf"})
    # What the retry left alone is not its to tell: the message names the run that knows.
    with pytest.raises(UsageError, match=f"it tried only documents of run {first.run_id}"):
        retry_of(case, again, category="ENCRYPTED")
    # It failed again: still not tried by the next whole run, and neither is what the retry left out.
    assert tried(case, whole(case)) == {"busy.pdf"}


def test_a_partial_output_is_moved_away_and_kept_when_it_is_converted_again(new_case: Cases) -> None:
    case = new_case({"gappy.pdf": b"%PDF-dummy pages=3 gap=2\n", "good.pdf": b"%PDF-dummy\n"})
    first = whole(case)
    old = case.output.read("gappy.md")
    assert case.account(first).partial == 1
    selection = retry_of(case, first, partial=True)
    again = whole(case, selection=selection)
    assert case.account(again).converted == 1
    assert case.output.head("gappy.md") is not None
    assert case.runs.read(f"{again.run_id}/replaced/gappy.md") == old


def test_overwrite_moves_outputs_with_their_assets_and_converts_all(new_case: Cases) -> None:
    case = new_case({"a.pdf": b"%PDF-dummy assets=2\n", "b.pdf": b"%PDF-dummy\n"})
    whole(case)
    before = {info.key for info in case.output.list(skip="_runs/")}
    case.publications.by_name.clear()
    again = whole(case, overwrite=True)
    case.check_published_once(again)
    kept = f"{again.run_id}/replaced/"
    assert {info.key[len(kept) :] for info in case.runs.list(kept)} == before | {".moved"}
    # Going on with such a run moves nothing of its own away.
    assert case.plan(run_id=again.run_id).spec == again
    assert case.account(again).lost == 0


def test_outputs_of_another_engine_are_told(new_case: Cases) -> None:
    case = new_case(documents(1))
    first = whole(case)
    planned = case.plan(engine=EngineName.LAYOUT)
    assert planned.notes == [
        f"1 outputs are there already, the last run was by engine dummy ({first.run_id}): "
        "they are skipped; --overwrite converts them again"
    ]


# -- going on --------------------------------------------------------------------------------------------------------


def test_an_unfinished_run_goes_on_by_itself_while_the_input_is_the_same(new_case: Cases) -> None:
    case = new_case(documents(3))
    first = case.plan().spec
    assert case.plan().spec == first
    assert case.plan(workers=7, retries=0).spec == first
    report(case, first)  # stopped early, with documents remaining
    assert case.plan().spec == first
    case.live(first)
    report(case, first)
    assert case.plan().spec != first


def test_an_unfinished_run_whose_outputs_were_removed_is_not_gone_on_with(new_case: Cases) -> None:
    case = new_case(documents(3))
    spec = case.plan().spec
    case.live(spec)  # killed before its report
    assert case.plan().spec.run_id == spec.run_id
    name = next(info.key for info in case.output.list() if info.key.endswith(".md"))
    case.output.delete(name)
    notes: list[str] = []
    case.local.process = case._dead()
    planned = plan_run(case.options, note=notes.append, sleep=lambda seconds: None)
    case.local.process = None
    assert planned.spec.run_id != spec.run_id
    assert planned.waiting == 1
    assert "1 of its outputs were removed" in notes[0]


@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_manifest_of_an_earlier_run_blocks_nothing(new_case: Cases, finished: bool) -> None:
    case = new_case(documents(3))
    spec = whole(case) if finished else case.plan().spec
    case.runs.put(spec.manifest, case.runs.read(spec.manifest)[:20])
    again = case.plan()
    assert again.spec.run_id != spec.run_id
    assert again.waiting == (0 if finished else 3)


@pytest.mark.parametrize("change", ["added", "removed", "changed", "limits", "limit"])
def test_a_changed_listing_or_request_is_a_new_run(new_case: Cases, change: str) -> None:
    case = new_case(documents(3))
    first = case.plan().spec
    changes: dict[str, object] = {}
    match change:
        case "added":
            case.put({"zz.pdf": b"%PDF-dummy\n"})
        case "removed":
            case.source.delete("d001.pdf")
        case "changed":
            case.put({"d001.pdf": b"%PDF-dummy pages=2\nnew\n"})
        case "limits":
            changes["limits"] = Limits(memory_mb=2048)
        case "limit":
            changes["limit"] = 2
    assert case.plan(**changes).spec.run_id != first.run_id


def test_other_parameters_are_refused_for_a_named_run(new_case: Cases) -> None:
    case = new_case(documents(1))
    spec = case.plan().spec
    with pytest.raises(
        UsageError, match=r"can't be resumed with other parameters: limit was None, now 3; give the same"
    ):
        case.plan(run_id=spec.run_id, limit=3)
    with pytest.raises(UsageError, match="max-pages was 5000, now 7"):
        case.plan(run_id=spec.run_id, limits=Limits(memory_mb=1024, max_pages=7))
    assert case.plan(run_id=spec.run_id, workers=5, retries=9, retry_failed=True).spec == spec


def test_other_options_of_the_engine_are_refused_for_a_named_run_and_begin_another_without(new_case: Cases) -> None:
    """One run must not publish documents by two sets of rules."""
    case = new_case(documents(1))
    given = {"engine": EngineName.DOLPHIN, "dolphin": DolphinOptions()}
    spec = case.plan(**given).spec
    assert spec.identity.engine_options["markdown"] == "clean"
    other = given | {"dolphin": DolphinOptions(markdown=MarkdownMode.UPSTREAM)}
    with pytest.raises(UsageError, match="other parameters: markdown was clean, now upstream; give the same"):
        case.plan(run_id=spec.run_id, **other)
    assert case.plan(run_id=spec.run_id, slots=3, **given).spec == spec
    assert case.plan(**given).spec == spec
    assert case.plan(**other).spec.run_id != spec.run_id


def test_no_pdfs_leave_no_run_behind(new_case: Cases) -> None:
    case = new_case({"readme.txt": b"x"})
    for _ in range(2):  # nor anything that the same process would trip over
        with pytest.raises(UsageError, match=r"no PDFs \(\*\.pdf\) in .*: nothing to convert"):
            case.plan(gone=False)
    assert list(case.runs.list()) == []


@pytest.mark.parametrize("runs", ["in", "in/runs"])
def test_runs_inside_the_input_are_refused(tmp_path: Path, runs: str) -> None:
    (tmp_path / "in").mkdir()
    options = Options(input=str(tmp_path / "in"), output=str(tmp_path / "out"), runs=str(tmp_path / runs))
    with pytest.raises(UsageError, match=r"the --runs .* is inside the input"):
        open_stores(options)


@pytest.mark.parametrize(("source", "output"), [("in", "in"), ("in", "in/out"), ("in", "in/sub/../x")])
def test_an_output_inside_the_input_is_refused(tmp_path: Path, source: str, output: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    with pytest.raises(UsageError, match="is inside the input"):
        plan_run(Options(input=str(tmp_path / source), output=str(tmp_path / output)))


# -- names, end to end -----------------------------------------------------------------------------------------------

ODD = [
    "with space.pdf", "  leading and trailing  .pdf", "-leading-dash.pdf", "--help.pdf", "it's quoted.pdf",
    'double"quote.pdf', "back\\slash.pdf", "semi;colon & amp.pdf", "$HOME.pdf", "`id`.pdf", "$(id).pdf",
    "percent%20encoded.pdf", "100%.pdf", "%s%d%n.pdf", "hash#fragment.pdf", "question?query=1.pdf",
    "plus+and=equals.pdf", "star*.pdf", "[brackets] {braces} (parens).pdf", "pipe|redirect>.pdf", "comma,colon:.pdf",
    "tab\there.pdf", "new\nline.pdf", "caf\u00e9-composed.pdf", "cafe\u0301-decomposed.pdf", "caf\u00e9.pdf",
    "cafe\u0301.pdf", "\u4e2d\u6587\u6587\u4ef6.pdf", "\u0627\u0644\u062a\u0642\u0631\u064a\u0631.pdf",
    "emoji-\U0001f4c4.pdf", "rtl-\u202efdp.exe.pdf", "zero\u200bwidth.pdf", "dots...pdf", "two.pdf.pdf", "no-extension",
    "CAPITALS.PDF", "Mixed.Pdf", "same.pdf", "Same.pdf", ".hidden.pdf", "~$lock.pdf", "CON.pdf", "nul.pdf",
    "x" * 240 + ".pdf", "\u4e2d" * 80 + ".pdf", ".pdf", "collide/a.b.pdf", "collide/a.b.PDF", "collide/a.b.md",
    "sub/one/two/three/deep.pdf", "sub dir/with space.pdf", "_runs/inside.pdf", "fig.assets/a.pdf", "fig.pdf",
    "x.md/y.pdf", "x.pdf", "%5Fruns/z.pdf", "/".join(["d" * 200] * 4) + "/thousand-bytes.pdf",
]  # fmt: skip
"""What the corpus's make_names.py makes, and names that the storage protocol itself reserves."""

ONLY_S3 = ["../up.pdf", "a//b.pdf", "./dot.pdf", "a/../b.pdf", "/root.pdf", "..pdf", "a/.pdf", "//.pdf"]


def convert(case: Case) -> tuple[Mapping[str, str], Mapping[str, bytes]]:
    """Key -> name of what was converted, name -> Markdown; each document has exactly one outcome."""
    planned = case.plan()
    case.live(planned.spec)
    final = [record for record in case.records(planned.spec) if record.outcome.final]
    assert len({record.index for record in final}) == len(final)
    account = case.account(planned.spec)
    assert account.closes
    assert account.remaining == 0
    written = {i.key: case.output.read(i.key) for i in case.output.list(skip="_runs/") if i.key.endswith(".md")}
    converted = {record.key: record.name for record in final if record.outcome is Outcome.CONVERTED}
    assert set(converted.values()) == set(written)
    return converted, written


def odd(some: list[str]) -> dict[str, bytes]:
    return {key: f"%PDF-dummy assets=1\n{key}\n".encode() for key in some}


def test_odd_names_in_folders_and_on_s3_give_the_same(new_case: Cases, moto_s3: MotoS3) -> None:
    pdfs = {key for key in ODD if names.is_pdf(key)}
    folder = new_case(odd(ODD))
    at = Path(folder.options.input)
    (at / "folder.pdf").mkdir()
    for link, target in (
        ("link.pdf", "same.pdf"),
        ("link-to-itself.pdf", "link-to-itself.pdf"),
        ("link-to-nothing.pdf", "gone.pdf"),
        ("sub/link-up", ".."),
    ):
        (at / link).symlink_to(target)
    Path(os.fsdecode(os.fsencode(at) + b"/latin1-\xe9.pdf")).write_bytes(b"%PDF-dummy\n")
    spec = folder.plan().spec
    converted, written = convert(folder)
    assert set(converted) == pdfs | {"link.pdf"}
    found = folder.reconcile(spec)
    failed = {failure.key: failure.failure.category for failure in found.failures}
    assert failed == {
        "latin1-\\xe9.pdf": Category.NAME,
        "link-to-itself.pdf": Category.MISSING,
        "link-to-nothing.pdf": Category.MISSING,
    }
    assert found.account.documents == len(pdfs) + 4

    bucket = new_case(odd(ODD), bucket=moto_s3.new_bucket())
    on_s3, s3_written = convert(bucket)
    assert on_s3 == {key: name for key, name in converted.items() if key != "link.pdf"}
    assert s3_written == {name: data for name, data in written.items() if name != "link.md"}


def test_names_that_only_s3_can_hold(new_case: Cases, moto_s3: MotoS3) -> None:
    """Their Markdown goes to a folder: every name is one that a folder can hold, and none leads out of it."""
    some = [*ONLY_S3, "b.pdf", "a/b.pdf"]
    case = new_case(odd(some), bucket=moto_s3.new_bucket())
    converted, s3_written = convert(case)
    assert set(converted) == set(some)

    mixed = new_case({})
    mixed.options = mixed.options.model_copy(update={"input": case.options.input})
    into_folder, written = convert(mixed)
    assert into_folder == converted
    assert written == s3_written


def test_planning_lists_the_input_without_a_call_a_document(new_case: Cases) -> None:
    case = new_case(documents(50))
    faults = Faults()
    case.plan(faults=faults)
    assert len(faults.calls) < 40


def test_outputs_of_an_older_version_of_their_document_are_told_until_they_are_converted_again() -> None:
    def info(key: str, etag: str) -> ObjectInfo:
        return ObjectInfo(key, 10, etag)

    def frozen(
        documents: list[ObjectInfo], outputs: set[str], earlier: list[Row], *, overwrite: bool = False
    ) -> list[Row]:
        return list(freeze(iter(documents), outputs, Previous(), overwrite=overwrite, earlier=iter(earlier)))

    outputs = {"a.md", "b.md", "d.md"}
    first = frozen([info("a.pdf", "1"), info("b.pdf", "1"), info("c.pdf", "1")], set(), [])
    changed = [info("a.pdf", "1"), info("b.pdf", "2"), info("c.pdf", "2"), info("d.pdf", "1")]
    second = frozen(changed, outputs, first)
    assert [(row.key, row.done, row.stale) for row in second] == [
        ("a.pdf", True, False),
        ("b.pdf", True, True),
        ("c.pdf", False, False),  # there is no output of it to be stale
        ("d.pdf", True, False),  # nothing is known of it
    ]
    assert [row.stale for row in frozen(changed, outputs, second)] == [False, True, False, False]
    assert not any(row.stale for row in frozen(changed, outputs, second, overwrite=True))
