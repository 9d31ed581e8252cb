"""What README.md, the pages in `docs/` and CHANGELOG.md say holds for the code."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

import groq_provider
from groq_provider import GroqProvider, ProviderConfig, RetryPolicy, Timeouts, errors, testing
from groq_provider.cli import _parser

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
#: The texts of README and of the site, by their paths.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}
#: Texts for people who change the library; they show no programs.
OTHERS = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}


def page(name: str) -> str:
    """The text of one page of the site."""
    return PAGES[f"docs/{name}.md"]


def blocks(language: str, text: str = README) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def first_column(text: str) -> list[str]:
    """The names in backticks that begin the rows of tables."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def programs() -> list[Any]:
    """Every Python block, with its page and its line to find it by."""
    return [
        pytest.param((name, code), id=f"{name.removesuffix('.md')}:{text[: text.index(code)].count(chr(10)) + 1}")
        for name, text in PAGES.items()
        for code in blocks("python", text)
    ]


@pytest.mark.parametrize("program", programs())
def test_every_python_block_runs(program, groq_emulator, request, tmp_path, monkeypatch):
    """On its own, against the emulator; test functions in it are called with the fixtures they name."""
    name, code = program
    (tmp_path / "groq.yaml").write_text(blocks("yaml", page("configuration"))[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "documentation"}
    exec(compile(code, str(ROOT / name), "exec"), names)
    for function in [function for function in names if function.startswith("test_")]:
        fixtures = inspect.signature(names[function]).parameters
        groq_emulator.reset()
        names[function](**{fixture: request.getfixturevalue(fixture) for fixture in fixtures})
    assert not groq_emulator.errors


def test_the_yaml_is_a_configuration():
    """Every name in it is known and every value allowed."""
    import yaml

    config = ProviderConfig.load(
        yaml.safe_load(blocks("yaml", page("configuration"))[0]), environ={"GROQ_API_KEY": "gsk_0123456789"}
    )
    assert config.timeout.total == 120
    assert config.retry == RetryPolicy.web()


def test_first_program_is_short():
    """The first program is complete, on the first screen, and of under 15 lines."""
    first = blocks("python")[0]
    assert len(first.strip().splitlines()) < 15
    assert README[: README.index(first)].count("\n") < 40


def test_one_command_for_demo_tests():
    """One command for the demo, one for the tests, both from nothing but Python; the second runs `.ci/run`."""
    demo, tests = [block.strip() for block in blocks("sh") if block.startswith("python3 -m venv")]
    assert demo.splitlines() == [demo]
    assert "'.[cli]'" in demo
    assert demo.endswith("groq-provider demo")
    assert tests.splitlines() == [tests]
    assert "'.[test]'" in tests
    assert tests.endswith("-m pytest -n 5")
    continuous = ROOT / ".ci" / "run"
    if continuous.exists():  # not in every copy of the sources
        assert "-m pytest -n 5" in continuous.read_text(encoding="utf-8")
        assert "-e '.[test]'" in continuous.read_text(encoding="utf-8")


def test_error_table_covers_public_errors():
    """None missing, none that is gone."""
    named = first_column(page("errors"))
    assert sorted(named) == sorted(errors.__all__)


def test_every_error_names_remedy():
    """Every error says how to mend it, but for those that are not raised yet."""
    for row in re.findall(r"^\| `\w+Error` \|.*$", page("errors"), re.MULTILINE):
        what, advice = [cell.strip() for cell in row.strip("|").split("|")[1:]]
        assert what
        assert advice or "not raised in this version" in what


def test_settings_table_covers_fields():
    """None missing, none that is gone."""
    tables = first_column(page("configuration"))
    assert sorted(tables) == sorted(field.name for field in attrs.fields(ProviderConfig))


@pytest.mark.parametrize(
    ("heading", "made"),
    [("`Timeouts`", [Timeouts()]), ("`RetryPolicy`", [RetryPolicy(), RetryPolicy.web(), RetryPolicy.batch()])],
    ids=["timeouts", "retry"],
)
def test_limit_tables_show_defaults(heading, made):
    """Names and values."""
    text = page("time-limits")
    table = text[text.index(f"| {heading} | default") :].split("\n\n")[0]
    rows = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]
    found = {row[0]: [None if cell == "None" else float(cell) for cell in row[1 : 1 + len(made)]] for row in rows}
    assert found == {field.name: [getattr(one, field.name) for one in made] for field in attrs.fields(type(made[0]))}


def test_settings_table_defaults_hold():
    """Those that are plain values."""
    config = ProviderConfig(api_key="gsk_0123456789")
    for name, default in re.findall(r"^\| `(\w+)` \| (`[^`]+`|\d+) \|", page("configuration"), re.MULTILINE):
        value = getattr(config, name)
        shown = default.strip("`").strip('"')
        assert shown in (str(value), "GROQ_API_KEY", f"{type(value).__name__}()"), name


def test_commands_and_options_are_named():
    """Every command and its options are named: the table of commands follows the parser."""
    text = page("command-line")
    commands = next(action for action in _parser()._actions if action.choices).choices
    assert len(commands) == 5
    for name, command in commands.items():
        row = next(line for line in text.splitlines() if f"`groq-provider {name}" in line)
        options = [option for action in command._actions for option in action.option_strings]
        for option in options:
            assert option in ("-h", "--help") or option in row, (name, option)
    assert "`groq-provider --version`" in text


def test_every_example_is_linked():
    """And every link leads to a file."""
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert files == set(re.findall(r"\(examples/(\w+\.py)\)", README))


def test_readme_stays_short():
    """It is read in a few minutes; the rest is in `docs/`."""
    assert len(README.split()) <= 1_100
    assert len(README.splitlines()) <= 150


def headings(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_links_lead_to_files(name):
    """Every relative link and image leads to a file, and to a heading of it."""
    here = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)]+)\)", {**PAGES, **OTHERS}[name].replace("\n", " ")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (here / file).resolve() if file else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in headings(path.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", [*PAGES, *OTHERS])
def test_named_files_are_there(name):
    """A path in backticks that begins with a folder of the repository leads to a file or folder."""
    text = {**PAGES, **OTHERS}[name]
    folders = "groq_provider|tests|docs|benchmarks|examples"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*)`", text))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_readme_leads_to_pages():
    """Every page for users is one link away."""
    pages = {name for name in PAGES if re.fullmatch(r"docs/[\w-]+\.md", name)} - {"docs/index.md", "docs/changelog.md"}
    assert pages <= set(re.findall(r"\]\((docs/[^)#]+)\)", README))


def test_public_names_exist():
    """Methods of a provider that are shown are there, and what looks like an error is one of the package."""
    text = "\n".join({**PAGES, **OTHERS}.values())
    assert set(re.findall(r"\bprovider\.(\w+)\(", text)) <= set(dir(GroqProvider))
    python = {"ValueError", "TimeoutError", "RuntimeError", "ImportError", "KeyboardInterrupt"}
    own = {*groq_provider.__all__, "StoreUnavailableError"}
    assert set(re.findall(r"`(\w+Error)`", text)) <= own | python


def test_reference_has_public_names():
    """Every public class and function is in the reference; the errors are there as one module."""
    text = "\n".join(text for name, text in PAGES.items() if name.startswith("docs/reference/"))
    shown = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)$", text, re.MULTILINE))
    constants = {"DEFAULT_MODEL", "FAST_MODEL", "MODEL_MIGRATION", "ContentPart", "__version__"}
    assert set(groq_provider.__all__) - set(errors.__all__) - constants <= shown
    assert set(testing.__all__) <= shown


def test_http2_names_missing_extra(monkeypatch):
    """At construction, and in one clear error; without the setting nobody asks for the package."""
    for name in [name for name in sys.modules if name.startswith("groq_provider.transport.http2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "h2", None)
    GroqProvider(api_key="gsk_0123456789").close()
    with pytest.raises(groq_provider.ConfigurationError, match=r"groq-provider\[http2\]"):
        GroqProvider(api_key="gsk_0123456789", http2=True)


def test_speed_figures_have_place():
    """Speed is measured in `benchmarks/` and written here."""
    assert "<!-- speed -->" in page("performance")


def test_the_changelog_has_this_version():
    """With entries for users."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([^\]]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert newest
    assert newest[1] == groq_provider.__version__
    assert set(re.findall(r"^### (\w+)$", changelog, re.MULTILINE)) <= {
        "Security", "Removed", "Deprecated", "Added", "Changed", "Fixed"
    }  # fmt: skip
