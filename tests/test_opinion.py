"""The second opinion: quiet on honest values, never a verdict, and nothing that fickling does stops the audit."""

import dataclasses
import io
import json
import pathlib
import signal

import pytest

from ben_secure import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch
from ben_secure.audit import audit_database
from ben_secure.audit.findings import NO_OPINION, Finding, Tally
from ben_secure.audit.judge.programs import refused_fingerprint
from ben_secure.audit.opinion import opinions as opinion
from ben_secure.audit.opinion._fickling_worker import analyse, serve
from ben_secure.audit.opinion.opinions import Opinions
from ben_secure.errors import Rule, StoreError
from ben_secure.pickles.names import TABLE
from support import assembler
from support.attacks import ATTACKS
from support.databases import HONEST, SHELL, make_database
from support.legacy_values import GENERATIONS, MERGED, S1, S2, labels, tree, write
from support.strategies import TwoBandPatch, make_patch

LAUGHS = next(attack for attack in ATTACKS if attack.name == "billion laughs through lists")


@pytest.fixture(scope="module")
def asked():
    """One process for many questions."""
    with Opinions() as opinions:
        yield opinions


def ask(opinions, program):
    """Ask about a program as of a refused value, with a fresh budget."""
    opinions._refused = opinion._Budget()
    return opinions.of_refused(program)


def refused(lmdb_key, value, position=0):
    """A finding as the audit makes it."""
    return Finding(
        lmdb_key=lmdb_key,
        rule=Rule.FORBIDDEN_GLOBAL,
        message="odd",
        position=position,
        program=refused_fingerprint(value),
    )


def honest_values():
    """Of every generation and kind, canonical and legacy."""
    found = [write(tree(kind, generation, labels())) for kind in (S1, S2, MERGED) for generation in GENERATIONS]
    for cls in (BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch):
        found.append(make_patch(cls, labels=["Pastures"], n=1, when=None, t=(1, 2.5), d={"a": [1]}).dumps())
    return [*HONEST, *found]


def test_it_is_quiet_on_honest_values(asked):
    """Of every generation, kind and format: fickling has read them, and its remarks on honest patches are left out."""
    for value in honest_values():
        said = asked.of_accepted(value)
        assert (said.available, said.beyond, said.text) == (
            True,
            False,
            "fickling reports nothing that it does not report about honest patches",
        )


def test_it_is_quiet_on_the_real_archives(asked, real_data):
    """The same is true for their canonical forms."""
    from ben_secure import loads
    from ben_secure.pages.reader import PageReader

    for database in sorted(real_data.glob("legacy/*/*.lmdb")):
        with PageReader(database) as pages:
            for _, value in pages.items():
                assert not asked.of_accepted(value).beyond
                assert asked.of_accepted(value).available
                assert not asked.of_accepted(loads(value).dumps()).beyond


def test_it_says_what_a_refused_value_would_have_done(asked):
    """The call in plain text, also where it hides behind an honest pickle."""
    said = asked.of_refused(SHELL)
    assert (
        said.text
        == "fickling: likely overtly malicious; it would run: from posix import system; _var0 = system('touch canary')"
    )
    assert asked.of_refused(HONEST[0] + SHELL).text == said.text
    assert not asked.of_refused(HONEST[0]).beyond


@pytest.mark.threat("T4")
def test_what_it_says_is_printable(asked):
    """The texts of the file come back escaped and cut."""
    value = assembler.program(
        assembler.call(assembler.name("os", "system"), assembler.text("\x1b[31m\u202e<script>" + "x" * 900))
    )
    said = asked.of_refused(value)
    assert "\\x1b[31m" in said.text
    assert all(" " <= character <= "~" for character in said.text)
    assert len(said.text) <= 400


def test_names_that_the_caller_declares_are_expected():
    """A subclass is as honest as the caller says; without that it is beyond."""
    value = TwoBandPatch(*(make_patch().get_band_data_by_name(name) for name in ("B02", "B11"))).dumps()
    with Opinions(classes=[TwoBandPatch]) as opinions:
        assert not opinions.of_accepted(value).beyond
    with Opinions() as opinions:
        assert opinions.of_accepted(value).beyond


def test_it_says_the_same_every_time():
    """No address of an object is in the text, also where fickling makes a name of one."""
    attack = next(attack for attack in ATTACKS if attack.name == "name with bytes for the name").value()
    said = []
    for _ in range(2):
        with Opinions() as opinions:
            said.append(opinions.of_refused(attack).text)
    assert said[0] == said[1]
    assert "import _malformed_attr_bytes; _var0 = _malformed_attr_bytes(" in said[0]


# Into a tally.


def settled(opinions, tally, values):
    """The tally after asking fickling."""
    opinions.settle(tally, values.get)
    return tally


def test_a_refused_finding_gets_its_opinion_and_stays(asked):
    """Only the opinion is added."""
    finding = refused(b"a", SHELL)
    tally = Tally(findings=[finding])
    assert settled(asked, tally, {b"a": SHELL}).findings == [
        dataclasses.replace(finding, opinion=asked.of_refused(SHELL).text)
    ]


def test_a_value_that_loads_is_remarked_on_once_for_each_program(monkeypatch):
    """In its place among the others; an opinion on an honest one adds nothing."""
    odd, usual = HONEST[0], HONEST[-1]
    with Opinions() as opinions:
        monkeypatch.setattr(
            opinions._fickling, "ask", lambda program: {"severity": "SUSPICIOUS", "beyond": ["odd"], "code": []}
            if b"bigearthnet" in program else {"severity": None, "beyond": [], "code": []},
        )  # fmt: skip
        programs = {b"odd": (b"b", 1), b"usual": (b"a", 0)}
        whole = Finding(rule=Rule.WRITABLE, message="odd")
        tally = Tally(findings=[refused(b"c", SHELL, 2), whole], programs=dict(programs))
        opinions.settle(tally, {b"a": usual, b"b": odd, b"c": SHELL}.get)
        assert [(finding.rule, finding.lmdb_key) for finding in tally.findings] == [
            (Rule.FORBIDDEN_GLOBAL, b"c"),
            (Rule.WRITABLE, None),
            (Rule.OPINION, b"b"),
        ]
        assert (tally.rules[Rule.OPINION], tally.findings[2].position) == (1, 1)
        assert tally.findings[2].opinion == "fickling: suspicious; odd"
        assert tally.opinions == {"as honest": 2, "more": 1}
        again = Tally(programs=dict(programs))
        opinions.settle(again, {b"a": usual, b"b": odd}.get)
        assert (again.findings, again.opinions) == ([], {})


def test_it_does_not_matter_how_the_work_was_divided(tmp_path):
    """One worker or two, the report is the same."""
    records = {b"%03d" % n: (HONEST[n % 5] if n % 4 else ATTACKS[n].value()) for n in range(24)}
    database = make_database(tmp_path / "db", records)
    from ben_secure.audit.run.runner import Run

    first, second = (audit_database(database, run=Run(workers=workers)) for workers in (1, 2))
    assert first == second
    assert first.tally.opinions["as honest"] == 3
    assert any(finding.opinion for finding in first.findings)


# Whatever fickling does.


@pytest.mark.threat("T13")
def test_a_hang_is_no_opinion_and_the_next_question_is_answered():
    """The process is killed in time and started again."""
    with Opinions(seconds=0.5) as opinions:
        said = opinions.of_refused(LAUGHS.value())
        assert (said.available, said.beyond, said.text) == (False, False, f"{NO_OPINION}: it did not finish in 0.5 s")
        assert "system" in opinions.of_refused(SHELL).text


@pytest.mark.threat("T13")
def test_a_crash_is_no_opinion_and_the_next_question_is_answered():
    """For any cause of the crash."""
    with Opinions() as opinions:
        opinions.of_refused(SHELL)
        opinions._fickling._running.send_signal(signal.SIGKILL)
        assert opinions.of_refused(HONEST[0]).text == f"{NO_OPINION}: it died"
        assert opinions.of_refused(HONEST[0] + b"N.").available


@pytest.mark.threat("T13")
def test_after_an_interruption_no_answer_is_taken_for_another(monkeypatch):
    """The process that may still answer is gone."""
    with Opinions() as opinions:
        with monkeypatch.context() as patched:

            def interrupt(_):
                raise KeyboardInterrupt

            opinions.of_refused(HONEST[1])
            patched.setattr(opinions._fickling, "_receive", interrupt)
            with pytest.raises(KeyboardInterrupt):
                opinions.of_refused(HONEST[0])
        assert "system" in opinions.of_refused(SHELL).text


@pytest.mark.threat("T13")
def test_memory_is_bounded(asked):
    """A program that takes more than there is ends the process or itself, and not the machine."""
    ask(asked, SHELL + b"N.")
    limits = pathlib.Path(f"/proc/{asked._fickling._running.pid}/limits").read_text()
    assert f"Max address space         {2**30}" in limits
    assert f"Max data size             {2**30}" in limits


@pytest.mark.threat("T13")
def test_a_refusal_is_no_opinion(asked):
    """An opcode that it does not know is not taken for harmless."""
    said = ask(asked, assembler.program(b"\x97"))
    assert (said.available, said.beyond, said.text) == (
        False,
        False,
        f"{NO_OPINION}: it cannot read the value (NotImplementedError)",
    )


@pytest.mark.threat("T13")
def test_after_some_failures_it_is_not_asked_any_more(monkeypatch):
    """A database of such values costs seconds; values that load have their own budget."""
    monkeypatch.setattr(opinion, "_MAX_FAILURES", 2)
    with Opinions() as opinions:
        opinions._refused.failures = 2

        def die(_):
            raise opinion._Failure("it died")

        monkeypatch.setattr(opinions._fickling, "ask", die)
        said = [opinions.of_refused(SHELL + bytes([n])).text for n in range(4)]
        assert (
            said
            == [f"{NO_OPINION}: it died"] * 2 + [f"{NO_OPINION}: it failed on 2 programs and is not asked again"] * 2
        )
        monkeypatch.undo()
        assert opinions.of_accepted(HONEST[0]).available


@pytest.mark.threat("T13")
@pytest.mark.parametrize("change", [{"programs": 1}, {"seconds": 0.0}])
def test_programs_and_time_are_bounded(change):
    """Questions beyond the bounds have no opinion; earlier answers are kept."""
    with Opinions() as opinions:
        first = opinions.of_refused(SHELL)
        opinions._refused = dataclasses.replace(opinion._Budget(), **change)
        if "programs" in change:
            assert opinions.of_refused(HONEST[0]).available
        said = opinions.of_refused(HONEST[1])
        assert (said.available, said.text.startswith(NO_OPINION)) == (False, True)
        assert opinions.of_refused(SHELL) == first


@pytest.mark.slow
@pytest.mark.threat("T13")
def test_an_archive_of_values_that_attack_fickling_is_audited(tmp_path, monkeypatch):
    """The verdict on each value is the loader's; none is lost."""
    monkeypatch.setattr(Opinions.__init__, "__kwdefaults__", {"classes": (), "seconds": 0.3})
    laughs = [attack.value() for attack in ATTACKS if "laughs" in attack.name]
    records = {b"%02d" % n: value for n, value in enumerate(laughs)} | {b"honest": HONEST[0], b"shell": SHELL}
    report = audit_database(make_database(tmp_path / "db", records))
    assert (report.verdict, report.refused, report.clean) == ("refused", len(laughs) + 1, 1)
    assert all(
        finding.opinion for finding in report.findings if finding.lmdb_key != b"honest" and finding.level == "error"
    )


@pytest.mark.threat("T13")
@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"\xff", b"{", b'{"beyond": 1}', b'{"beyond": [], "code": 3}', b"x" * 70_000]
)
def test_an_answer_that_makes_no_sense_is_no_opinion(answer, monkeypatch):
    """The process may be compromised, so its answers are treated as hostile text."""
    with Opinions() as opinions:
        opinions.of_refused(SHELL)
        running = opinions._fickling._running
        running.stdout.close()
        monkeypatch.setattr(running, "stdout", io.BytesIO(len(answer).to_bytes(4, "little") + answer))
        said = opinions.of_refused(HONEST[0])
        assert (said.available, said.beyond) == (False, False)


@pytest.mark.threat("T13")
def test_a_value_that_changed_or_is_gone_is_no_opinion():
    """It is read again for fickling; another program of a refused value has another fingerprint."""

    def broken(_):
        raise StoreError("torn page")

    for read in ({b"a": HONEST[0]}.get, {}.get, broken):
        with Opinions() as opinions:
            tally = Tally(findings=[refused(b"a", SHELL)], programs={b"program": (b"b", 1)})
            opinions.settle(tally, read)
            assert tally.findings[0].opinion == f"{NO_OPINION}: the value changed during the audit"
            assert tally.opinions == {"none": 2}


@pytest.mark.threat("T13")
def test_fickling_that_cannot_be_started_is_no_opinion(monkeypatch, tmp_path):
    """The audit goes on without it."""
    monkeypatch.setattr(opinion.sys, "executable", str(tmp_path / "missing"))
    with Opinions() as opinions:
        assert opinions.of_refused(SHELL).text == f"{NO_OPINION}: it cannot be started"


# In the process itself.


def test_the_process_answers_until_the_pipe_is_closed():
    """Requests and answers have a length in front; an exception of fickling is an answer."""
    requests = io.BytesIO()
    for content in (json.dumps(sorted(TABLE)).encode(), SHELL, b"\x80\x04\x97.", HONEST[0]):
        requests.write(len(content).to_bytes(4, "little") + content)
    requests.seek(0)
    answers = io.BytesIO()
    serve(requests, answers)
    answers.seek(0)
    found = []
    while head := answers.read(4):
        found.append(json.loads(answers.read(int.from_bytes(head, "little"))))
    assert found[0] == {}
    assert found[1]["severity"] == "LIKELY_OVERTLY_MALICIOUS"
    assert found[1]["code"] == ["from posix import system", "_var0 = system('touch canary')"]
    assert found[2] == {"error": "it cannot read the value (NotImplementedError)"}
    assert found[3] == {"severity": None, "beyond": [], "code": []}
    serve(io.BytesIO(), answers)


def test_only_exact_names_are_honest():
    """Another module with the same name is not honest, and neither is a call of the result."""
    honest = frozenset(TABLE)
    evil = assembler.program(assembler.call(assembler.name("evil", "dtype"), assembler.text("u2")))
    good = assembler.program(assembler.call(assembler.name("numpy", "dtype"), assembler.text("u2")))
    assert analyse(evil, honest)["severity"] == "LIKELY_UNSAFE"
    assert analyse(evil, honest)["code"][0] == "from evil import dtype"
    assert analyse(good, honest)["severity"] is None
