"""`make setup`: what it decides, and what it refuses."""

from __future__ import annotations

import ast
import hashlib
import io
import sys
from pathlib import Path

import pytest

from deploy.local import apt, checksums, environments, lock, maven
from deploy.local.apt import Interpreter
from deploy.local.paths import JAR_POM, JAR_SUMS, REQUIREMENTS, ROOT
from deploy.local.progress import SetupError, Step, run_step
from deploy.local.stamps import Stamp, fingerprint

SETUP_MODULES = ("setup", "apt", "checksums", "environments", "maven", "paths", "progress", "stamps")


@pytest.mark.parametrize("module", SETUP_MODULES)
def test_the_set_up_needs_nothing_but_the_standard_library(module):
    tree = ast.parse((ROOT / "deploy" / "local" / f"{module}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    known = {f"deploy.local.{name}" for name in SETUP_MODULES} | {"deploy.local"}
    assert {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names} <= known


# checksums


@pytest.fixture
def jars(tmp_path: Path) -> Path:
    for name in ("kafka/a.jar", "kafka/b.jar", "flink/c.jar"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def check(base: Path, sums: dict[str, str]) -> None:
    checksums.verify(checksums.present(base, ("kafka", "flink")), sums)


def test_jars_as_listed_are_accepted(jars):
    files = checksums.present(jars, ("kafka", "flink"))
    (jars / "SHA256SUMS").write_text(checksums.render(files))
    sums = checksums.read_sums(jars / "SHA256SUMS")
    assert sums["kafka/a.jar"] == hashlib.sha256(b"kafka/a.jar").hexdigest()
    check(jars, sums)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda base: (base / "kafka/b.jar").write_text("other"), "kafka/b.jar: sha256 is"),
        (lambda base: (base / "flink/c.jar").unlink(), "flink/c.jar: missing"),
        (lambda base: (base / "kafka/extra.jar").touch(), "kafka/extra.jar: not in the list"),
    ],
)
def test_a_wrong_a_missing_and_an_extra_jar_are_refused_by_name(jars, spoil, message):
    sums = {name: checksums.sha256(path) for name, path in checksums.present(jars, ("kafka", "flink")).items()}
    spoil(jars)
    with pytest.raises(SetupError, match=message):
        check(jars, sums)


def test_the_committed_list_is_of_what_maven_fetches():
    sums = checksums.read_sums(JAR_SUMS)
    assert {name.split("/")[0] for name in sums} == set(maven.FETCHED)
    assert all(len(digest) == 64 for digest in sums.values())


def test_no_lock_names_where_packages_are_served_from():
    for path in [*REQUIREMENTS.iterdir(), JAR_SUMS]:
        assert "://" not in path.read_text(), path.name
    assert "<repository>" not in JAR_POM.read_text()


def test_every_lock_is_made_by_make_lock_and_has_hashes():
    assert {path.name for path in REQUIREMENTS.glob("*.txt")} - {"flink-overrides.txt"} == set(lock.LOCKS)
    for name in lock.LOCKS:
        text = (REQUIREMENTS / name).read_text()
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pins, name
        assert all("==" in pin and pin.endswith("\\") for pin in pins), name


# interpreters


def test_an_environment_gets_a_python_that_it_allows():
    pythons = [Interpreter("/p/13", (3, 13), True), Interpreter("/p/12", (3, 12), True)]
    assert apt.choose(pythons, (11, 12, 13), "worker").path == "/p/13"
    assert apt.choose(pythons, (11, 12), "flink").path == "/p/12"


def test_a_python_that_makes_environments_is_preferred():
    pythons = [Interpreter("/p/11", (3, 11), False), Interpreter("/p/12", (3, 12), True)]
    assert apt.choose(pythons, (11, 12), "flink").path == "/p/12"


def test_no_fitting_python_is_said_with_the_versions_that_are():
    with pytest.raises(SetupError, match=r"the job needs Python 3\.11 or 3\.12"):
        apt.choose([Interpreter("/p/13", (3, 13), True)], (11, 12), "the job")


def test_what_is_no_python_is_passed_over(tmp_path):
    assert apt.probe(str(tmp_path / "absent")) is None
    assert apt.probe("/bin/false") is None
    found = apt.probe(sys.executable)
    assert found is not None
    assert found.version == sys.version_info[:2]


# apt


def test_nothing_missing_calls_no_apt(monkeypatch):
    monkeypatch.setenv("PATH", "")
    apt.install_missing([], [])


def test_without_root_and_sudo_the_command_that_mends_it_is_said(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    with pytest.raises(SetupError) as caught:
        apt.install_missing(["maven"], ["maven (to fetch jars)"])
    assert str(caught.value) == (
        "missing: maven (to fetch jars); run as root: apt-get install --no-install-recommends maven"
    )


def test_without_apt_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(SetupError, match=r"missing: maven .* no apt-get"):
        apt.install_missing(["maven"], ["maven (to fetch jars)"])


# stamps and progress


def test_a_stamp_holds_until_an_input_or_an_output_changes(tmp_path):
    source, out = tmp_path / "pom.xml", tmp_path / "out"
    source.write_text("1")
    out.mkdir()
    (out / "a.jar").write_text("a")

    def stamp() -> Stamp:
        return Stamp(tmp_path / "stamp.json", fingerprint([source]), [out])

    assert not stamp().holds()
    stamp().write()
    assert stamp().holds()
    (out / "b.jar").touch()
    assert not stamp().holds()
    stamp().write()
    source.write_text("2")
    assert not stamp().holds()
    stamp().write()
    (out / "a.jar").unlink()
    assert not stamp().holds()


def test_uv_and_maven_say_how_much_has_come(tmp_path):
    requirements = tmp_path / "r.txt"
    requirements.write_text("a==1 \\\nb==2 \\\n")
    downloads = environments.Downloads(requirements)
    assert downloads.measure() == "2 packages"
    for line in ("Resolved 60 packages in 5ms", "Downloading a (10.0MiB)", "Downloading b (1.0GiB)", " Downloaded a"):
        downloads.line(line)
    assert downloads.measure() == "10 of 1084 MB of large files, 60 packages resolved"

    transfers = maven.Transfers()
    assert transfers.measure() == ""
    for line in (
        "[INFO] Downloaded from central: x.pom (407 kB at 8.7 MB/s)",
        "[INFO] Downloaded from c: y (9 B at 1 B/s)",
    ):
        transfers.line(line)
    assert transfers.measure() == "2 files, 0.4 MB downloaded"


def test_without_a_terminal_progress_has_no_control_characters(monkeypatch):
    monkeypatch.setattr("deploy.local.progress.PLAIN_EVERY_S", 0.01)
    out = io.StringIO()
    with Step("jars", lambda: "3 files", out) as step:
        step._done.wait(0.1)
    text = out.getvalue()
    assert text.startswith("  jars …\n… jars: 3 files, 0 s\n")
    assert text.endswith("✓ jars: 3 files, 0 s\n")
    assert "\x1b" not in text
    assert "\r" not in text


def test_a_failed_step_shows_the_end_of_its_output_and_where_all_of_it_is(tmp_path):
    log = tmp_path / "step.log"
    script = "for i in range(50): print('line', i)\nraise SystemExit(3)"
    with pytest.raises(SetupError) as caught:
        run_step("a step", [sys.executable, "-c", script], log=log)
    text = str(caught.value)
    assert "status 3" in text
    assert "line 49" in text
    assert "line 1\n" not in text
    assert str(log) in text
    assert "line 0\n" in log.read_text()


def test_a_command_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SetupError, match="absent does not run"):
        run_step("a step", [str(tmp_path / "absent")], log=tmp_path / "log")
