"""What the documents name is there: scripts, flags, configurations, pages."""

import glob
import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT, run_python

DOCUMENTS = sorted([*glob.glob(os.path.join(ROOT, "*.md")), *glob.glob(os.path.join(ROOT, "*", "*.md"))])
DOCUMENTS = [os.path.relpath(path, ROOT) for path in DOCUMENTS if os.path.basename(os.path.dirname(path)) != ".venv"]


def text(document):
    with open(os.path.join(ROOT, document), encoding="utf-8") as file:
        return file.read()


def commands(document):
    """Returns the commands `python script.py …` of a document, in fences and in inline code, as lists of words."""
    whole = text(document)
    fences = re.findall(r"```bash\n(.*?)```", whole, re.DOTALL)
    lines = "\n".join(fences).replace("\\\n", " ").splitlines()
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", whole, flags=re.DOTALL))
    found = []
    for line in lines:
        match = re.search(r"(?:^|\s)((?:[\w./-]+/)?\w+\.py)(\s.*)?$", line.split(" #")[0].split("   ")[0])
        if match and re.match(r"\s*(python|\(|PADDLE|[A-Z_]+=)", line):
            found.append([match[1], *re.findall(r"--[a-z]\w*", (match[2] or "").split(" -- ")[0])])
    return found


@pytest.fixture(scope="module")
def help_of():
    """Returns a function that gives what a script says for --help."""
    known = {}

    def get(script, capture):
        if script not in known:
            path = os.path.join(ROOT, script)
            if script.startswith("tests/"):  # which imports what is beside it
                return known.setdefault(script, run_python([script, "--help"]).stdout)
            spec = importlib.util.spec_from_file_location(f"documented_{os.path.basename(script)[:-3]}", path)
            module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            capture.readouterr()
            with pytest.raises(SystemExit):
                module.main(["--help"])
            known[script] = capture.readouterr().out
        return known[script]

    return get


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_the_flags_they_name(document, help_of, capsys):
    for script, *flags in commands(document):
        if not os.path.exists(os.path.join(ROOT, script)) or script.startswith(("dev/", "test_tipc/")):
            continue  # another project's, in a table of what is called how where; or without arguments to look at
        told = help_of(script, capsys)
        unknown = [flag for flag in flags if not re.search(rf"{flag}\b", told)]
        # argparse takes beginnings of flags, of which PSANet_paddle's commands have one
        assert not [flag for flag in unknown if flag != "--log_iter"], f"{document}: {script}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_documents_name_are_there(document):
    folder = os.path.dirname(os.path.join(ROOT, document))
    whole = text(document)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", whole):
        assert os.path.exists(os.path.join(folder, target)), target
    for path in re.findall(r"(?<![\w/])configs/[\w/]+\.yml", whole):
        assert os.path.exists(os.path.join(ROOT, path)), path
    for fence in re.findall(r"```bash\n(.*?)```", whole, re.DOTALL):
        for script in re.findall(r"(?m)^\s*python ([\w/]+\.py)", fence):
            assert os.path.exists(os.path.join(ROOT, script)), script


def test_commands_are_found():
    """So that the tests above do not pass for want of commands."""
    found = [(script, flag) for document in DOCUMENTS for script, *flags in commands(document) for flag in flags]
    assert len(found) > 100
    assert ("train.py", "--do_eval") in found and ("tools/convert_checkpoint.py", "--backbone") in found


def test_the_reference_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("make_reference", os.path.join(ROOT, "dev", "make_reference.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert text("docs/reference.md") == module.reference(), "run python dev/make_reference.py"


def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    process = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "site" / "model_zoo" / "index.html").exists()


def test_the_chinese_readme_has_the_content_of_the_english_one():
    english, chinese = text("README.md"), text("README_CN.md")

    def skeleton(page):
        fences = [re.sub(r" *#.*", "", fence) for fence in re.findall(r"```\w+\n(.*?)```", page, re.DOTALL)]
        links = sorted(set(re.findall(r"\]\(([^)]+)\)", page)) - {"README.md", "README_CN.md"})
        numbers = [re.findall(r"\d[\d,.]*\d|\d", row) for row in page.splitlines() if row.startswith("|")]
        code = sorted(set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))))
        return fences, links, numbers, code, page.count("\n## "), page.count("\n- **")

    for ours, theirs in zip(skeleton(english), skeleton(chinese)):
        assert ours == theirs


# NumPy's own words, and a command.
FOREIGN = ("numpy.core.multiarray failed to import", "_ARRAY_API not found", "serve.py --help")


def test_the_documents_with_commands_are_those_that_are_run():
    with open(os.path.join(ROOT, "tests", "test_documents.py"), encoding="utf-8") as file:
        run = re.findall(r'"([\w/]+\.md)"', file.read())
    with_commands = [document for document in DOCUMENTS if re.search(r"```bash\n[^`]*python ", text(document))]
    assert len(with_commands) > 8
    assert set(with_commands) - set(run) == {"README_CN.md"}  # whose commands are the English one's


def test_the_messages_of_troubleshooting_are_in_the_code():
    """Every message, as far as it is the same each time: between `…`, numbers and names."""
    sources = [path for folder in ("", "*", "*/*", "*/*/*") for path in glob.glob(os.path.join(ROOT, folder, "*.py"))]
    code = "\n".join(text(path) for path in ["Makefile", *sources] if "/tests/" not in path)
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # literals that go on in the next line
    messages = re.findall(r"(?m)^\| (.*?) \|", text("docs/troubleshooting.md"))
    messages = [message for cell in messages for message in re.findall(r"`([^`]+)`", cell) if " " in message]
    messages = [message for message in messages if message not in FOREIGN]
    assert len(messages) >= 30
    unknown = []
    for message in messages:
        parts = [part.strip() for part in re.split(r"…|;|\d+%?|'\w+'|https://", message) if len(part) > 8]
        unknown += [] if any(part in code for part in parts) else [message]
    assert not unknown
