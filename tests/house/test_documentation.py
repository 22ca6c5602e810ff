"""What the documentation says is true: generated pages are fresh, links lead somewhere, nothing names what it must not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def tracked(*patterns: str) -> list[Path]:
    """Files of the project, by git; patterns as git takes them."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_a_generated_reference_page_is_out_of_date():
    done = subprocess.run([sys.executable, "scripts/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", tracked("*.md"), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_link_leads_nowhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    broken = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert broken == []


REGISTRY_HOSTS = (
    "py" + "pi.org", "python" + "hosted.org", "crates" + ".io", "npm" + "js.org", "proxy.golang" + ".org",
    "repo.maven" + ".apache", "deb.debian" + ".org",
)  # fmt: skip


def test_a_file_names_where_packages_come_from():
    """Where packages come from is the machine's business: a site may have its own mirror."""
    named = [
        (str(file.relative_to(ROOT)), host)
        for file in tracked()
        for host in REGISTRY_HOSTS
        if host in file.read_text(encoding="utf-8", errors="replace")
    ]
    assert named == []


def test_every_verb_of_the_makefile_is_explained():
    text = (ROOT / "Makefile").read_text()
    for verb in re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split():
        assert re.search(rf"^{verb}:.*## \w", text, re.MULTILINE), verb


def test_the_sdk_carries_another_schema_of_its_configuration_than_the_contract():
    copies = tracked("sdk/*config.schema.json")
    for copy in copies:
        assert copy.read_text() == (ROOT / "contract" / "config.schema.json").read_text(), copy


COMMANDS = (ROOT / "docs" / "reference" / "commands.md").read_text()
USES = [
    (page.name, words, options)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
    for words, options in re.findall(r"(?:`|bin/)trackmate ([a-z]+(?: [a-z]+)?)((?: [^`\n#]*)?)", page.read_text())
]


@pytest.mark.parametrize(("page", "words", "options"), USES)
def test_a_guide_uses_a_command_or_an_option_that_is_not_there(page, words, options):
    name = words if f"## trackmate {words}\n" in COMMANDS else words.split()[0]
    assert f"## trackmate {name}\n" in COMMANDS, f"{page}: trackmate {words}"
    section = COMMANDS.partition(f"## trackmate {name}\n")[2].partition("\n## ")[0]
    unknown = [option for option in re.findall(r"--[a-z-]+", options.partition('"')[0]) if option not in section]
    assert unknown == [], f"{page}: trackmate {words}"
