"""Turn the nbdev notebooks into pages that Sphinx (MyST-NB) renders: `python docs/nbsite.py nbs _proc`

No cell runs here: a page shows the outputs that are committed with its notebook. nbdev's own processors apply `#| hide`, `#| export` and the
rest; the documentation of a symbol comes from the installed package; and what nbdev leaves for Quarto is put in MyST terms."""
import os, re, shutil, sys
from importlib import import_module
from pathlib import Path

import nbdev.showdoc, yaml
from execnb.shell import CaptureShell
from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev import processors as P
from nbdev.config import get_config, nbpath2html

CALLOUTS = ("note", "tip", "warning", "caution", "important")
LAYERS = ("Words", "Models", "Data", "Learning", "Acting", "People", "Everything")   # by the first digit of a chapter's number
EXPORTS = {"export", "exports", "exporti"}
ANSI = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")
BAR = re.compile(r"^.*\d+%\|.*\| *\d\S*/\d\S* \[.*\]?$")   # tqdm's progress bar


class Renderer(nbdev.showdoc.BasicMarkdownRenderer):
    "nbdev's `show_doc` renderer: a class is announced as one, our own types go by their last name, and what fits one line has one"
    def _repr_markdown_(self): return re.sub(r"(?<=^```python\n)(.*?)(?=^```)", self._signature, super()._repr_markdown_(), count=1, flags=re.M | re.S)

    def _signature(self, m):
        s = re.sub(rf"\b{get_config().lib_path.name}\.\w+\.(?=\w)", "", m[1].strip())
        s = re.sub(r"<(?:function|class) '?([\w.]+)'?(?: at 0x\w+)?>", lambda n: n[1].split(".")[-1], s)
        if isinstance(self.sym, type): s = re.sub(r"\)(->None)?:$", "):", re.sub("^def ", "class ", s))
        one = re.sub(r",? *\)", ")", re.sub(r"\s*\n\s*", " ", s).replace("( ", "("))
        return (s if "#" in s or len(one) > 100 else one) + "\n"


class show_docs(P.Processor):
    "Run the `show_doc` cells, and no other, with the names of the module that the notebook exports"
    def begin(self):
        self.k = CaptureShell()
        mod = next((m for c in self.nb.cells if (m := c.get("directives_", {}).get("default_exp"))), None)
        if mod: self.k.user_ns.update({k: v for k, v in vars(import_module(f"{get_config().lib_path.name}.{mod}")).items() if k[:2] != "__"})
        self.k.run_cell("from nbdev.showdoc import show_doc")

    def cell(self, cell):
        if not P._is_showdoc(cell): return
        self.k.cell(cell)
        if self.k.exc: raise RuntimeError(f"no documentation for: {cell.source}") from self.k.exc


def fold_exports(cell):
    "Keep the source of exported cells, folded; imports and hidden cells go"
    if cell.cell_type != "code" or not cell.directives_: return
    d = cell.directives_.keys()
    if d & {"hide", "default_exp"}: del cell["source"]
    elif d & EXPORTS:
        lines = [l for l in cell.source.splitlines() if l.strip() and l[0] not in "#)] "]
        if all(re.match(r"(from|import|__all__|_all_)\b", l) for l in lines): del cell["source"]
        else: cell.source, cell["outputs"], cell["is_source"] = f'#| code-fold: true\n#| code-summary: "Source"\n{cell.source}', [], True


class known_by_all(P.Processor):
    "Leave out the documentation of special methods; `__call__` is the one whose parameters are ours"
    def begin(self): self.nb.cells = [c for c in self.nb.cells if not (getattr(c, "has_sd", False) and re.search(r"\.__(?!call__)\w+__\)$", c.source))]


class source_last(P.Processor):
    "Put the source of exported cells behind the documentation made from it, which nbdev gives last symbol first"
    def begin(self):
        cells, res = self.nb.cells, []
        while cells:
            docs = []
            if "is_source" in cells[0]:
                while len(cells) > 1 and getattr(cells[1], "has_sd", False): docs.insert(0, cells.pop(1))
            res += [*docs, cells.pop(0)]
        self.nb.cells = res


class Filter(P.FilterDefaults):
    "nbdev's processors with those above in place of the ones that run or drop cells"
    def base_procs(self):
        new = dict(exec_show_docs=show_docs, rm_export=fold_exports, mv_exports=source_last, add_fold=None, insert_warning=None)
        procs = [n for p in super().base_procs() if (n := new.get(p.__name__, p))]
        procs.insert(procs.index(P.add_show_docs)+1, known_by_all)
        return procs


def page(p):
    "`00_core.ipynb` is the page `core`, the name nbdev's own links use"
    return nbpath2html(Path(p)).with_suffix(".ipynb")


def fix_markdown(s, up=""):
    "Pandoc/Quarto markdown to MyST; links to the site's own address become relative, `up` leads to its root"
    def callout(m):
        title = re.search(r'title="([^"]*)"', m[3])
        fold = "\n:class: dropdown" if "collapse" in m[3] else ""
        head = f"{{admonition}} {title[1]}\n:class: {m[2]}" if title else f"{{{m[2]}}}"
        return f"{m[1]}{head}{fold}"
    s = re.sub(rf"^(:{{3,}}) *\{{\.callout-({'|'.join(CALLOUTS)})([^}}]*)\}}", callout, s, flags=re.M)
    s = re.sub(r"^:{3,} *\{\.[^}]*\} *$|^:{3,} *\{fig-[^}]*\} *$", "", s, flags=re.M)
    s = re.sub(r"\[source\]\(([^)]+)\)\{[^}]*\}", r'<a class="nb-source" href="\1">source</a>', s)
    s = re.sub(r"(\]\([^)]+\))\{[^}]*\}", r"\1", s)
    s = re.sub(r"(\]\()([\w./-]+\.ipynb)(#[^)]*)?\)", lambda m: f"{m[1]}{page(m[2])}{m[3] or ''})", s)
    site = re.escape(get_config().doc_url.rstrip("/")+"/")
    s = re.sub(rf"\[`([^`\]]+)`\]\({site}([^)]+)\)", rf'<a href="{up}\2"><code>\1</code></a>', s)
    return re.sub(r'^---\n\n(?=<a class="nb-source"|#+ )', "", s)


def fix_output(o, up):
    "An output as a page can show it: no progress bars, no terminal colours, MyST markdown"
    if "text" in o:
        lines = ANSI.sub("", "".join(o["text"])).replace("\r\n", "\n").split("\n")
        o["text"] = "\n".join(l for l in (re.sub(r".*\r(?=.)", "", l).strip("\r") for l in lines) if not BAR.match(l))
    d = o.get("data") or {}
    if "text/markdown" in d: d["text/markdown"] = fix_markdown("".join(d["text/markdown"]), up)


def fix_cell(c, up=""):
    "Quarto cell options to MyST-NB tags"
    for k in ("has_sd", "is_source"): c.pop(k, None)
    if c.cell_type != "code": c.source = fix_markdown(c.source, up); return
    opts, lines = {}, c.source.splitlines()
    while lines and (m := re.match(r"#\|\s*([\w-]+)\s*:?\s*(.*)", lines[0])): opts[m[1]] = m[2].strip().strip('"'); lines.pop(0)
    c.source, tags = "\n".join(lines), list(c.metadata.get("tags", []))
    md = [o for o in c.get("outputs", []) if "text/markdown" in (o.get("data") or {})]
    if opts.get("output") == "asis" and md:  # `show_doc`: a real section, so that it is in the contents and has an address
        c.cell_type, c.source = "markdown", fix_markdown("".join(md[0]["data"]["text/markdown"]), up)
        if m := re.search(r"^#+ (\w+\.[\w.]+)$", c.source, re.M):   # nbdev links to `#class.method`
            title = m[0].replace("_", r"\_")
            c.source = f'<a id="{m[1].lower()}"></a>\n\n{c.source.replace(m[0], title, 1)}'
        for k in ("outputs", "execution_count"): c.pop(k, None)
        c["metadata"] = {}
        return
    if opts.get("echo") == "false": tags.append("remove-input")
    if opts.get("include") == "false": tags.append("remove-cell")
    if "code-fold" in opts:
        tags.append("hide-input")
        c.metadata["mystnb"] = {k: opts.get("code-summary", "Code") for k in ("code_prompt_show", "code_prompt_hide")}
    if opts.get("warning") == "false": tags.append("remove-stderr")
    c.metadata.pop("execution", None)
    c.metadata["tags"] = tags
    for o in c.get("outputs", []): fix_output(o, up)
    sizes = [m[1] for o in c.get("outputs", []) if (m := re.search(r"<Figure size (\d+)x", "".join((o.get("data") or {}).get("text/plain", ""))))]
    if sizes: c.metadata.setdefault("mystnb", {})["image"] = dict(width=f"{max(sizes, key=int)}px")   # the picture itself has twice as many pixels
    c["outputs"] = [o for o in c.get("outputs", []) if "text" not in o or o["text"].strip()]


def build_page(src, dst, rel):
    "Process the notebook `src` and write the page to `dst`; `rel` is its path below the notebooks' folder"
    up = "../"*(len(rel.parts)-1)
    nb = read_nb(src)
    Filter()(nb)
    head = nb.cells[0]
    if head.cell_type == "raw":
        fm = yaml.safe_load(head.source.strip().strip("-")) or {}
        nb.cells[0] = mk_cell(f"# {fm.get('title', src.stem)}\n\n:::{{div}} nb-lead\n{fm.get('description', '')}\n:::", "markdown")
    for c in nb.cells: fix_cell(c, up)
    nb.cells = [c for c in nb.cells if c.source.strip()]
    dst.parent.mkdir(parents=True, exist_ok=True)
    write_nb(nb, dst)


def toc(caption, pages):
    "A contents cell for the front page"
    return mk_cell(f"```{{toctree}}\n:caption: {caption}\n:maxdepth: 2\n:hidden:\n\n" + "\n".join(pages) + "\n```", "markdown")


def main(nbs, out):
    "Write a page for every notebook under `nbs` to `out`, with the contents in the front page"
    root, nbs, out = Path(nbs).resolve().parent, Path(nbs).resolve(), Path(out).resolve()
    os.chdir(root)
    os.environ["IN_TEST"] = "1"   # nbdev writes nothing of its own
    nbdev.showdoc.BasicMarkdownRenderer = Renderer
    shutil.rmtree(out, ignore_errors=True)
    seen = [p for p in sorted(nbs.rglob("*")) if p.is_file() and not any(o[0] in "._" for o in p.relative_to(nbs).parts)]
    files = [p.relative_to(nbs) for p in seen if p.suffix == ".ipynb"]
    for p in files: build_page(nbs/p, out/page(p), p)
    for p in seen:
        if p.suffix in (".png", ".svg", ".jpg", ".gif"):
            (out/p.relative_to(nbs)).parent.mkdir(parents=True, exist_ok=True); shutil.copy(p, out/p.relative_to(nbs))
    groups = {d.capitalize(): [p for p in files if p.parts[0] == d] for d in ("tutorials", "explanations")}
    for i, layer in enumerate(LAYERS): groups[layer] = [p for p in files if p.name.startswith(str(i)) and len(p.parts) == 1]
    idx = read_nb(out/"index.ipynb")
    idx.cells += [toc(g, [page(p).with_suffix("").as_posix() for p in ps]) for g, ps in groups.items() if ps]
    write_nb(idx, out/"index.ipynb")


if __name__ == "__main__": main(*sys.argv[1:])
