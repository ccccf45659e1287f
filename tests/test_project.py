"What nbdev writes, the two config files and what is shipped are in step with the notebooks"
import ast
import filecmp
import inspect
import json
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
import pytest
from conftest import ROOT

BIN = Path(sys.executable).parent
SOURCES = "pyproject.toml settings.ini setup.py README.md nbs aligners_nb".split()
CHAPTERS = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
WEIGHTS = ROOT/"aligners_nb/town_weights"
MACHINE_PATH = "|".join(["site-packages/", "/tmp/tmp", re.escape(f"{Path.home()}/"), re.escape(f"{ROOT}/")])


def copy_project(target, *more):
    "Copy what nbdev reads to `target`; with `more` files also the weights, which a wheel needs"
    skipped = ["__pycache__", ".ipynb_checkpoints"]
    if not more: skipped.append("town_weights")
    for name in [*SOURCES, *more]:
        source = ROOT/name
        if source.is_dir(): shutil.copytree(source, target/name, ignore=shutil.ignore_patterns(*skipped))
        else: shutil.copy(source, target/name)


def assert_same_files(folder, other, pattern):
    names = sorted(path.relative_to(folder) for path in folder.rglob(pattern))
    assert names == sorted(path.relative_to(other) for path in other.rglob(pattern))
    changed = [str(name) for name in names if not filecmp.cmp(folder/name, other/name, shallow=False)]
    assert changed == []


def notebook_cells(path): return json.loads(path.read_text())["cells"]


def sources(path, kind):
    "The sources of a notebook's cells of one kind"
    return ["".join(cell["source"]) for cell in notebook_cells(path) if cell["cell_type"] == kind]


def module_of(chapter):
    "The module that a chapter exports, or None"
    for source in sources(chapter, "code"):
        export = re.match(r"#\| *default_exp (\w+)", source)
        if export: return export[1]


def test_module_is_what_the_notebooks_export(tmp_path):
    copy_project(tmp_path)
    subprocess.run([BIN/"nbdev-export"], cwd=tmp_path, check=True)
    assert_same_files(ROOT/"aligners_nb", tmp_path/"aligners_nb", "*.py")


def test_notebooks_are_clean(tmp_path):
    copy_project(tmp_path)
    subprocess.run([BIN/"nbdev-clean"], cwd=tmp_path, check=True)
    assert_same_files(ROOT/"nbs", tmp_path/"nbs", "*.ipynb")


def test_readme_is_the_index_notebook():
    subprocess.run([sys.executable, "docs/readme.py", "--check"], cwd=ROOT, check=True)


def test_settings_ini_and_pyproject_agree():
    pyproject = tomllib.loads((ROOT/"pyproject.toml").read_text())
    project, nbdev = pyproject["project"], pyproject["tool"]["nbdev"]
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini")
    settings = parser["DEFAULT"]
    site = settings["doc_host"] + settings["doc_baseurl"]
    assert settings["lib_name"] == project["name"] and settings["description"] == project["description"]
    assert project["requires-python"] == ">="+settings["min_python"]
    assert project["urls"] == {"Repository": settings["git_url"], "Documentation": site}
    for key in ("lib_path", "nbs_path", "doc_path", "title", "branch"): assert settings[key] == nbdev[key], key
    assert settings["tst_flags"].split() == nbdev["tst_flags"]
    package = (ROOT/settings["lib_path"]/"__init__.py").read_text()
    assert settings["version"] == re.search(r'^__version__ = "(.+)"', package, re.M)[1]


def test_the_front_page_lists_every_chapter():
    text = "\n".join(sources(ROOT/"nbs/index.ipynb", "markdown"))
    listed = re.findall(r"\]\((\d+_\w+\.ipynb)\)", text)
    assert [path.name for path in CHAPTERS if path.stem != "60_all" and path.name not in listed] == []
    assert [name for name in listed if not (ROOT/"nbs"/name).exists()] == []


def imported_modules(module):
    "The modules of the package that a module of the package imports"
    tree = ast.parse((ROOT/"aligners_nb"/f"{module}.py").read_text())
    names = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom): continue
        path = (node.module or "").split(".")
        if not node.level and path[0] != "aligners_nb": continue
        if path[-1] in ("", "aligners_nb"): names += [alias.name for alias in node.names]
        else: names.append(path[-1])
    return names


def test_a_chapter_imports_only_from_lower_numbers():
    numbers = {module_of(path): number for number, path in enumerate(CHAPTERS) if module_of(path)}
    wrong = []
    for module, number in numbers.items():
        imported = [name for name in imported_modules(module) if name in numbers]
        wrong += [f"{module} imports {name}" for name in imported if numbers[name] >= number]
    assert wrong == []
    assert numbers["criterion"] < numbers["llm"] and "criterion" in imported_modules("llm")


def house_table(head):
    "The rows of the table on the page about the package whose first column is called `head`, each a list of cells"
    lines = "\n".join(sources(ROOT/"nbs/house.ipynb", "markdown")).splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
    rows = []
    for line in lines[start+2:]:
        if not line.startswith("|"): break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def linked_chapters(text): return re.findall(r"\]\((\w+)\.ipynb\)", text)


def test_the_house_names_each_chapter_once_in_its_order():
    text = " ".join(chapters for _, chapters, _ in house_table("layer"))
    listed = re.findall(r"\[(\w+)\]\((\w+)\.ipynb\)", text)
    assert listed == [(module_of(path), path.stem) for path in CHAPTERS if module_of(path)]


def test_layers_import_what_the_house_says():
    layer_of = {}      # module → layer
    for layer, chapters, _ in house_table("layer"):
        for stem in linked_chapters(chapters): layer_of[stem[3:]] = layer
    layers = list(dict.fromkeys(layer_of.values()))
    for module, layer in layer_of.items():
        for name in imported_modules(module):
            if name not in layer_of: continue
            assert layers.index(layer_of[name]) <= layers.index(layer), f"{module} imports {name}"
            if layer_of[name] == "the town": assert layer == "the town" or module in ("demo", "all"), module
    words = [f"aligners_nb.{module}" for module, layer in layer_of.items() if layer == "words"]
    code = f"import sys, {', '.join(words)}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def subclasses(role):
    "A class of the package and all exported classes below it"
    below = [child for direct in role.__subclasses__() for child in subclasses(direct)]
    exported = getattr(sys.modules[role.__module__], "__all__", ())
    is_ours = role.__module__.startswith("aligners_nb.") and role.__name__ in exported
    return [role, *below] if is_ours else below


def test_the_house_names_who_plays_a_role():
    from aligners_nb import demo    # it imports the modules of all players
    from aligners_nb.judge import Judge
    from aligners_nb.llm import LLM
    from aligners_nb.scorers import Scorer
    from aligners_nb.squad import Corrector, Inspector
    assert demo.Demo
    named = {role: re.findall(r"`([A-Z]\w+)`", players) for role, _, players in house_table("role")}
    assert list(named) == ["LLM", "Corrector", "Scorer", "Inspector", "Judge"]
    for role in (LLM, Corrector, Scorer, Inspector, Judge):
        players = subclasses(role)
        final = {player.__name__ for player in players if len(subclasses(player)) == 1}
        assert final <= set(named[role.__name__]) <= {player.__name__ for player in players}


def test_the_house_has_the_words_of_the_code():
    from aligners_nb.criterion import COLUMNS
    from aligners_nb.squad import POLICIES, Alignment
    words = [word.strip("`") for word, *_ in house_table("word")]
    assert [word for word in words if word not in COLUMNS] == ["risk"] and hasattr(Alignment("q", "y", "y"), "risks")
    assert tuple(policy.strip("`") for policy, *_ in house_table("policy")) == tuple(POLICIES)


def test_each_promise_is_held_by_chapters_and_tests_that_are_there():
    for part, promise, held_by in house_table("part"):
        tests = re.findall(r"\[`(tests/\w+\.py)`\]\(\S+/(tests/\w+\.py)\)", held_by)
        chapters = linked_chapters(held_by)
        assert tests and chapters and promise.endswith("."), part
        assert [name for pair in tests for name in pair if not (ROOT/name).exists()] == [], part
        assert [stem for stem in chapters if not (ROOT/"nbs"/f"{stem}.ipynb").exists()] == [], part


def test_a_title_stands_alone():
    "What else its cell held would be missing on the site, as nbdev takes the cell for the page's head"
    for path in CHAPTERS:
        assert re.fullmatch(r"# \w+\n\n> [^\n]+", sources(path, "markdown")[0]), path.name


def test_the_linter_is_content():
    "Notebooks, tests, benchmarks and what builds the site: statements a line, unused names, columns, size of functions"
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "."], cwd=ROOT, check=True)


def test_outputs_name_no_machine():
    found = {}
    for path in (ROOT/"nbs").rglob("*.ipynb"):
        outputs = json.dumps([cell.get("outputs") for cell in notebook_cells(path)])
        machine_path = re.search(MACHINE_PATH, outputs)
        if machine_path: found[path.name] = machine_path[0]
    assert found == {}


def test_shipped_weights_are_small_and_safe():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert all(path.stat().st_size <= 1e6 for path in (WEIGHTS/"guests").rglob("*.safetensors"))


def test_all_hands_out_what_a_user_types():
    import aligners_nb.all as everything
    names = {}
    exec("from aligners_nb.all import *", names)
    pipeline = {"synthesize", "curate", "Aligner", "Inspector", "Squad", "evaluate", "town", "criteria", "Criterion"}
    assert pipeline <= set(names)
    imported = {name for name in vars(everything) if not name.startswith("_")}
    assert imported == set(everything.__all__) and len(imported) == len(everything.__all__)
    assert 50 <= len(imported) <= 75
    described = [value for value in map(names.get, imported) if callable(value) or inspect.ismodule(value)]
    assert len(described) > 50 and [value for value in described if not inspect.getdoc(value)] == []


def test_the_ten_lines_hide_nothing():
    import aligners_nb.all as everything
    names = [node for node in ast.walk(ast.parse(ten_lines())) if isinstance(node, ast.Name)]
    assigned = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    assert {"rows", "train", "calib", "test", "aligner", "inspector", "squad"} <= assigned
    assert assigned & set(everything.__all__) == set()


def ten_lines():
    "The code under the README's heading `Ten lines`"
    part = (ROOT/"README.md").read_text().split("\n## Ten lines\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"^```python\n(.*?)^```", part, re.M | re.S))


def build_wheel(folder):
    "The wheel that is built from a copy of the project, by way of an sdist"
    source, dist = folder/"src", folder/"dist"
    source.mkdir()
    copy_project(source, "MANIFEST.in", "LICENSE", "CHANGELOG.md")
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source], check=True)
    return next(dist.glob("*.whl"))


def new_environment(folder, wheel):
    "The programs of a new environment in which the wheel is installed, and nothing but what it asks for"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    torch = re.search(r"^TORCH \?= (.+)$", (ROOT/"Makefile").read_text(), re.M)[1]
    for package in (torch, wheel): subprocess.run([folder/"bin/pip", "install", "-q", package], check=True)
    return folder/"bin"


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    "sdist → wheel → a new environment with nothing else in it → the README's lines, the demo and a file of answers"
    programs = new_environment(tmp_path/"env", build_wheel(tmp_path))
    work = tmp_path/"work"
    work.mkdir()
    record = dict(question="When does the library open?", response="Use your own eyes for once.")
    (work/"lines.py").write_text(ten_lines())
    (work/"in.jsonl").write_text(json.dumps(record)+"\n")
    subprocess.run([programs/"python", "lines.py"], cwd=work, check=True, timeout=1200)
    demo = [programs/"aligners", "demo", "--out", "demo", "--n", "30"]
    subprocess.run(demo, cwd=work, check=True, timeout=1800)
    assert json.loads((work/"demo/report.json").read_text())["n"] and (work/"demo/report.html").exists()
    align = [programs/"aligners", "align", "--squad", "demo/squad", "--in", "in.jsonl", "--out", "out.jsonl"]
    subprocess.run(align, cwd=work, check=True, timeout=300)
    assert "aligned" in json.loads((work/"out.jsonl").read_text())
