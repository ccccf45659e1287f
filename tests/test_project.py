"What nbdev writes, the two config files and what is shipped are in step with the notebooks"
import ast, filecmp, inspect, json, re, shutil, subprocess, sys, tomllib
from configparser import ConfigParser
from pathlib import Path
import pytest
from conftest import ROOT

BIN = Path(sys.executable).parent
KEEP = "pyproject.toml settings.ini setup.py README.md nbs aligners_nb".split()
CHAPTERS = sorted((ROOT/"nbs").glob("[0-9]*.ipynb"))
WEIGHTS = ROOT/"aligners_nb/town_weights"

def copy(dst, *more):
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", *([] if more else ["town_weights"]))
    for n in [*KEEP, *more]:
        s = ROOT/n
        shutil.copytree(s, dst/n, ignore=skip) if s.is_dir() else shutil.copy(s, dst/n)
    return dst

def same(a, b, pat):
    fs = sorted(p.relative_to(a) for p in a.rglob(pat))
    assert fs == sorted(p.relative_to(b) for p in b.rglob(pat))
    assert [str(f) for f in fs if not filecmp.cmp(a/f, b/f, shallow=False)] == []

def ini():
    cp = ConfigParser(delimiters=["="]); cp.read(ROOT/"settings.ini")
    return cp["DEFAULT"]

def cells(p, kind): return ["".join(c["source"]) for c in json.loads(p.read_text())["cells"] if c["cell_type"] == kind]

def test_module_is_what_the_notebooks_export(tmp_path):
    copy(tmp_path); subprocess.run([BIN/"nbdev-export"], cwd=tmp_path, check=True)
    same(ROOT/"aligners_nb", tmp_path/"aligners_nb", "*.py")

def test_notebooks_are_clean(tmp_path):
    copy(tmp_path); subprocess.run([BIN/"nbdev-clean"], cwd=tmp_path, check=True)
    same(ROOT/"nbs", tmp_path/"nbs", "*.ipynb")

def test_readme_is_the_index_notebook():
    subprocess.run([sys.executable, "docs/readme.py", "--check"], cwd=ROOT, check=True)

def test_settings_ini_and_pyproject_agree():
    py, cfg = tomllib.loads((ROOT/"pyproject.toml").read_text()), ini(); proj, nbdev = py["project"], py["tool"]["nbdev"]
    assert cfg["lib_name"] == proj["name"] and cfg["description"] == proj["description"]
    assert proj["requires-python"] == ">="+cfg["min_python"]
    assert proj["urls"] == {"Repository": cfg["git_url"], "Documentation": cfg["doc_host"]+cfg["doc_baseurl"]}
    for k in "lib_path nbs_path doc_path title branch".split(): assert cfg[k] == nbdev[k], k
    assert cfg["tst_flags"].split() == nbdev["tst_flags"]
    assert cfg["version"] == re.search(r'^__version__ = "(.+)"', (ROOT/cfg["lib_path"]/"__init__.py").read_text(), re.M)[1]

def test_the_front_page_lists_every_chapter():
    text = "\n".join(cells(ROOT/"nbs/index.ipynb", "markdown"))
    assert [p.name for p in CHAPTERS if p.stem != "60_all" and f"]({p.name})" not in text] == []
    assert [n for n in re.findall(r"\]\((\d+_\w+\.ipynb)\)", text) if not (ROOT/"nbs"/n).exists()] == []

def module(p): return next((m[1] for s in cells(p, "code") if (m := re.match(r"#\| *default_exp (\w+)", s))), None)

def test_a_chapter_imports_only_from_lower_numbers():
    number, wrong = {module(p): i for i, p in enumerate(CHAPTERS)}, []
    for i, p in enumerate(CHAPTERS):
        src = (ROOT/"aligners_nb"/f"{module(p)}.py").read_text()
        for n in ast.walk(ast.parse(src)):
            if isinstance(n, ast.ImportFrom) and (n.level or (n.module or "").startswith("aligners_nb")):
                mods = [n.module.split(".")[-1]] if n.module and n.module != "aligners_nb" else [a.name for a in n.names]
                wrong += [f"{p.name} imports {m}" for m in mods if m in number and number[m] >= i]
    assert wrong == []

def test_a_title_stands_alone():
    "What else its cell held would be missing on the site, as nbdev takes the cell for the page's head"
    for p in CHAPTERS: assert re.fullmatch(r"# \w+\n\n> [^\n]+", cells(p, "markdown")[0]), p.name

def test_the_linter_is_content():
    "Notebooks, tests, benchmarks and what builds the site: statements a line, unused names, columns, size of functions"
    subprocess.run([sys.executable, "-m", "ruff", "check", "--quiet", "."], cwd=ROOT, check=True)

def test_outputs_name_no_machine():
    out = {p.name: json.dumps([c.get("outputs") for c in json.loads(p.read_text())["cells"]]) for p in (ROOT/"nbs").rglob("*.ipynb")}
    assert {n: m[0] for n, o in out.items() if (m := re.search(r"site-packages/|/tmp/tmp|" + re.escape(str(Path.home())+"/") + "|" + re.escape(f"{ROOT}/"), o))} == {}

def test_shipped_weights_are_small_and_safe():
    files = [p for p in WEIGHTS.rglob("*") if p.is_file()]
    assert any(p.suffix == ".safetensors" for p in files)
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".jinja", ".md"}
    assert sum(p.stat().st_size for p in files) <= 12e6
    assert all(p.stat().st_size <= 1e6 for p in (WEIGHTS/"guests").rglob("*.safetensors"))

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

@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    "sdist → wheel → a new environment with nothing else in it → the README's lines, the demo and a file of answers"
    def run(*cmd, cwd=tmp_path, **kw): return subprocess.run([str(c) for c in cmd], cwd=cwd, check=True, **kw)
    src, env, work = tmp_path/"src", tmp_path/"env", tmp_path/"work"
    for d in (src, work): d.mkdir()
    copy(src, "MANIFEST.in", "LICENSE", "CHANGELOG.md")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path/"dist", src)
    run(sys.executable, "-m", "venv", env)
    torch = re.search(r"^TORCH \?= (.+)$", (ROOT/"Makefile").read_text(), re.M)[1]
    run(env/"bin/pip", "install", "-q", torch)
    run(env/"bin/pip", "install", "-q", *(tmp_path/"dist").glob("*.whl"))
    (work/"lines.py").write_text(ten_lines()); (work/"in.jsonl").write_text('{"question": "When does the library open?", "response": "Use your own eyes for once."}\n')
    run(env/"bin/python", "lines.py", cwd=work, timeout=1200)
    run(env/"bin/aligners", "demo", "--out", "demo", "--n", "30", cwd=work, timeout=1800)
    assert json.loads((work/"demo/report.json").read_text())["n"] and (work/"demo/report.html").exists()
    run(env/"bin/aligners", "align", "--squad", "demo/squad", "--in", "in.jsonl", "--out", "out.jsonl", cwd=work, timeout=300)
    assert "aligned" in json.loads((work/"out.jsonl").read_text())
