"""Turn the nbdev notebooks into pages that Sphinx (MyST-NB) renders: `python docs/nbsite.py nbs _proc`

No cell runs here: a page shows the outputs that are committed with its notebook. nbdev's own processors apply
`#| hide`, `#| export` and the other directives. The documentation of a symbol comes from the installed package.
What nbdev leaves to Quarto is translated to MyST.
"""
import ast
import os
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import nbdev.showdoc
import yaml
from execnb.shell import CaptureShell
from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev import processors
from nbdev.config import get_config, nbpath2html

FOLDERS = ("tutorials", "guides", "explanations")   # sections of the contents that have a folder of their own
LAYERS = ("Words", "Models", "Data", "Learning", "Acting", "People", "Everything")   # by a chapter's first digit
CALLOUTS = "|".join(("note", "tip", "warning", "caution", "important"))
PICTURES = (".png", ".svg", ".jpg", ".gif")
EXPORTS = {"export", "exports", "exporti"}
LINE_WIDTH = 100   # characters up to which a signature is one line
TERMINAL_COLOUR = re.compile(r"\x1B(?:[@-Z\\-_]|\[[0-?]*[ -/]*[@-~])")
PROGRESS_BAR = re.compile(r"^.*\d+%\|.*\| *\d\S*/\d\S* \[.*\]?$")   # as tqdm draws it


# Documentation of symbols

class Renderer(nbdev.showdoc.BasicMarkdownRenderer):
    "nbdev's `show_doc` renderer, with signatures as a reader of the package would type them"
    def _repr_markdown_(self):
        text = super()._repr_markdown_()
        return re.sub(r"(?<=^```python\n)(.*?)(?=^```)", self._signature, text, count=1, flags=re.M | re.S)

    def _signature(self, match):
        "A class is announced as one, our own types go by their last name, and what fits on one line has one"
        package = get_config().lib_path.name
        signature = re.sub(rf"\b{package}\.\w+\.(?=\w)", "", match[1].strip())
        signature = re.sub(r"<(?:function|class) '?([\w.]+)'?(?: at 0x\w+)?>", last_name, signature)
        if isinstance(self.sym, type):
            signature = re.sub("^def ", "class ", signature)
            signature = re.sub(r"\)(->None)?:$", "):", signature)
        one_line = re.sub(r"\s*\n\s*", " ", signature).replace("( ", "(")
        one_line = re.sub(r",? *\)", ")", one_line)
        has_comments = "#" in signature
        if not has_comments and len(one_line) <= LINE_WIDTH: signature = one_line
        return signature + "\n"


def last_name(match):
    "The last part of the dotted name that was matched"
    return match[1].split(".")[-1]


# nbdev's processors: a function takes each cell, a `Processor` may also see the whole notebook

class ShowDocs(processors.Processor):
    "Run the `show_doc` cells, and no other, with the names of the module that the notebook exports"
    def begin(self):
        self.shell = CaptureShell()
        for cell in self.nb.cells:
            module = cell.get("directives_", {}).get("default_exp")
            if module: self.shell.user_ns.update(module_names(module))
        self.shell.run_cell("from nbdev.showdoc import show_doc")

    def cell(self, cell):
        if not processors._is_showdoc(cell): return
        self.shell.cell(cell)
        if self.shell.exc: raise RuntimeError(f"no documentation for: {cell.source}") from self.shell.exc


def module_names(module):
    "What a module of the package holds, private names included"
    package = get_config().lib_path.name
    names = vars(import_module(f"{package}.{module}"))
    return {name: value for name, value in names.items() if not name.startswith("__")}


def fold_exports(cell):
    "Keep the source of exported cells, folded; imports and hidden cells go"
    if cell.cell_type != "code" or not cell.directives_: return
    directives = cell.directives_.keys()
    if directives & {"hide", "default_exp"} or (directives & EXPORTS and only_imports(cell.source)):
        del cell["source"]
    elif directives & EXPORTS:
        cell.source = f'#| code-fold: true\n#| code-summary: "Source"\n{cell.source}'
        cell["outputs"] = []
        cell["is_source"] = True


def only_imports(source):
    "Does a cell hold nothing but imports and lists of names?"
    statements = [line for line in source.splitlines() if line.strip() and line[0] not in "#)] "]
    return all(re.match(r"(from|import|__all__|_all_)\b", line) for line in statements)


class DocumentMethods(processors.Processor):
    "Document the methods of a class body as nbdev documents patched ones; the last comes first, as nbdev has it"
    def begin(self):
        classes = {}                                        # name → the class in the syntax tree
        for cell in self.nb.cells:
            if cell.cell_type != "code": continue
            nodes = cell.parsed_() or []
            classes |= {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}
        cells = []
        for cell in self.nb.cells:
            shown = re.fullmatch(r"show_doc\((\w+)\)", cell.source) if is_documentation(cell) else None
            if shown and shown[1] in classes: cells += reversed(method_cells(classes[shown[1]]))
            cells.append(cell)
        self.nb.cells = cells


def method_cells(class_node):
    "A `show_doc` cell for each method of a class that has a docstring"
    cells = []
    for node in class_node.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not ast.get_docstring(node): continue
        is_property = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
        if is_property or (node.name.startswith("_") and node.name != "__call__"): continue
        cell = mk_cell(f"show_doc({class_node.name}.{node.name})")
        cell.has_sd = True
        cells.append(cell)
    return cells


class DropSpecialMethods(processors.Processor):
    "Leave out the documentation of special methods; `__call__` is the one whose parameters are ours"
    def begin(self):
        self.nb.cells = [cell for cell in self.nb.cells if not self.is_special(cell)]

    def is_special(self, cell):
        return is_documentation(cell) and re.search(r"\.__(?!call__)\w+__\)$", cell.source)


class SourceLast(processors.Processor):
    "Put the source of exported cells behind the documentation made from it, which nbdev gives last symbol first"
    def begin(self):
        cells, ordered = self.nb.cells, []
        while cells:
            first = cells.pop(0)
            documentation = []
            while "is_source" in first and cells and is_documentation(cells[0]):
                documentation.insert(0, cells.pop(0))
            ordered += [*documentation, first]
        self.nb.cells = ordered


def is_documentation(cell):
    "Did nbdev add this `show_doc` cell for an exported symbol?"
    return getattr(cell, "has_sd", False)


class Filter(processors.FilterDefaults):
    "nbdev's processors, with ours in place of those that run or drop cells"
    def base_procs(self):
        replacements = dict(exec_show_docs=ShowDocs, rm_export=fold_exports, mv_exports=SourceLast,
                            add_fold=None, insert_warning=None)
        chosen = [replacements.get(processor.__name__, processor) for processor in super().base_procs()]
        chosen = [processor for processor in chosen if processor]
        after_docs = chosen.index(processors.add_show_docs)+1
        return [*chosen[:after_docs], DocumentMethods, DropSpecialMethods, *chosen[after_docs:]]


# From Quarto's Markdown to MyST's

def page(path):
    "`00_core.ipynb` is the page `core`, the name nbdev's own links use"
    return nbpath2html(Path(path)).with_suffix(".ipynb")


def myst_callout(match):
    "Quarto's callout as MyST's admonition"
    colons, kind, options = match.groups()
    title = re.search(r'title="([^"]*)"', options)
    head = f"{{admonition}} {title[1]}\n:class: {kind}" if title else f"{{{kind}}}"
    fold = "\n:class: dropdown" if "collapse" in options else ""
    return f"{colons}{head}{fold}"


def page_link(match):
    "A link to a notebook as a link to its page"
    start, notebook, anchor = match.groups()
    return f"{start}{page(notebook)}{anchor or ''})"


def fix_markdown(text, up=""):
    "Quarto's Markdown as MyST's; links to the site's own address become relative, `up` leads to its root"
    site = re.escape(get_config().doc_url.rstrip("/")+"/")
    text = re.sub(rf"^(:{{3,}}) *\{{\.callout-({CALLOUTS})([^}}]*)\}}", myst_callout, text, flags=re.M)
    text = re.sub(r"^:{3,} *\{\.[^}]*\} *$|^:{3,} *\{fig-[^}]*\} *$", "", text, flags=re.M)
    text = re.sub(r"\[source\]\(([^)]+)\)\{[^}]*\}", r'<a class="nb-source" href="\1">source</a>', text)
    text = re.sub(r"(\]\([^)]+\))\{[^}]*\}", r"\1", text)
    text = re.sub(r"(\]\()([\w./-]+\.ipynb)(#[^)]*)?\)", page_link, text)
    text = re.sub(rf"\[`([^`\]]+)`\]\({site}([^)]+)\)", rf'<a href="{up}\2"><code>\1</code></a>', text)
    return re.sub(r'^---\n\n(?=<a class="nb-source"|#+ )', "", text)


# Cells and their outputs

def shown_line(line):
    "A line of output as a terminal leaves it: what was overwritten after a carriage return is gone"
    return re.sub(r".*\r(?=.)", "", line).strip("\r")


def fix_output(output, up):
    "An output as a page can show it: no progress bars, no terminal colours, MyST Markdown"
    if "text" in output:
        text = TERMINAL_COLOUR.sub("", "".join(output["text"])).replace("\r\n", "\n")
        lines = [shown_line(line) for line in text.split("\n")]
        output["text"] = "\n".join(line for line in lines if not PROGRESS_BAR.match(line))
    markdown = output_data(output, "text/markdown")
    if markdown: output["data"]["text/markdown"] = fix_markdown(markdown, up)


def output_data(output, mime):
    "What an output shows in the form `mime`, or an empty text"
    data = output.get("data") or {}
    return "".join(data.get(mime, ""))


def take_options(cell):
    "The Quarto options at the head of a cell, as name → value; they leave its source"
    options, lines = {}, cell.source.splitlines()
    while lines:
        option = re.match(r"#\|\s*([\w-]+)\s*:?\s*(.*)", lines[0])
        if not option: break
        options[option[1]] = option[2].strip().strip('"')
        lines.pop(0)
    cell.source = "\n".join(lines)
    return options


def as_section(cell, markdown, up):
    "Make a `show_doc` cell a Markdown section, so that it is in the contents and has an address"
    cell.cell_type, cell.source = "markdown", fix_markdown(markdown, up)
    method = re.search(r"^#+ (\w+\.[\w.]+)$", cell.source, re.M)
    if method:                                          # nbdev links to `#class.method`
        heading = method[0].replace("_", r"\_")
        anchor = method[1].lower()
        cell.source = f'<a id="{anchor}"></a>\n\n{cell.source.replace(method[0], heading, 1)}'
    for key in ("outputs", "execution_count"): cell.pop(key, None)
    cell["metadata"] = {}


def set_options(cell, options):
    "Quarto's cell options as MyST-NB's tags"
    tags = list(cell.metadata.get("tags", []))
    if options.get("echo") == "false": tags.append("remove-input")
    if options.get("include") == "false": tags.append("remove-cell")
    if "code-fold" in options:
        tags.append("hide-input")
        summary = options.get("code-summary", "Code")
        cell.metadata["mystnb"] = dict(code_prompt_show=summary, code_prompt_hide=summary)
    if options.get("warning") == "false": tags.append("remove-stderr")
    cell.metadata.pop("execution", None)
    cell.metadata["tags"] = tags


def set_image_width(cell):
    "Show a cell's figures in the size they were drawn for: the pictures themselves have twice as many pixels"
    widths = []
    for output in cell.get("outputs", []):
        figure = re.search(r"<Figure size (\d+)x", output_data(output, "text/plain"))
        if figure: widths.append(int(figure[1]))
    if widths: cell.metadata.setdefault("mystnb", {})["image"] = dict(width=f"{max(widths)}px")


def fix_cell(cell, up=""):
    "Make a cell that nbdev has processed one that MyST-NB renders"
    for mark in ("has_sd", "is_source"): cell.pop(mark, None)
    if cell.cell_type != "code":
        cell.source = fix_markdown(cell.source, up)
        return
    options = take_options(cell)
    outputs = cell.get("outputs", [])
    documentation = [text for output in outputs if (text := output_data(output, "text/markdown"))]
    if options.get("output") == "asis" and documentation:
        as_section(cell, documentation[0], up)
        return
    set_options(cell, options)
    for output in outputs: fix_output(output, up)
    set_image_width(cell)
    cell["outputs"] = [output for output in outputs if "text" not in output or output["text"].strip()]


# Pages and their contents

def title_cell(front_matter, name):
    "The first cell of a page, from the front matter that nbdev made of a notebook's first cell"
    fields = yaml.safe_load(front_matter.strip().strip("-")) or {}
    title = fields.get("title", name)
    lead = fields.get("description", "")
    return mk_cell(f"# {title}\n\n:::{{div}} nb-lead\n{lead}\n:::", "markdown")


def build_page(source, target, path):
    "Process the notebook `source` and write its page to `target`; `path` is its place below the notebooks' folder"
    up = "../"*(len(path.parts)-1)
    notebook = read_nb(source)
    Filter()(notebook)
    head = notebook.cells[0]
    if head.cell_type == "raw": notebook.cells[0] = title_cell(head.source, source.stem)
    for cell in notebook.cells: fix_cell(cell, up)
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_nb(notebook, target)


def section(path):
    "The caption under which the contents list a notebook; the front page stands above them all"
    if path == Path("index.ipynb"): return None
    if path.parts[0] in FOLDERS: return path.parts[0].capitalize()
    if path.name.startswith("000_"): return "Tour"
    if path.name[0].isdigit(): return LAYERS[int(path.name[0])]
    return "The package"


def contents(paths):
    "The cells of the front page that hold the site's contents"
    captions = ["Tour", *map(str.capitalize, FOLDERS), *LAYERS, "The package"]
    cells = []
    for caption in captions:
        names = [page(path).with_suffix("").as_posix() for path in paths if section(path) == caption]
        if not names: continue
        lines = ["```{toctree}", f":caption: {caption}", ":maxdepth: 2", ":hidden:", "", *names, "```"]
        cells.append(mk_cell("\n".join(lines), "markdown"))
    return cells


def visible_files(folder):
    "The files below `folder`, as paths from there, without hidden ones and those whose names begin with `_`"
    paths = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in paths if not any(part[0] in "._" for part in path.parts)]


def main(notebooks, out):
    "Write a page for every notebook below `notebooks` to `out`, with the contents in the front page"
    notebooks, out = Path(notebooks).resolve(), Path(out).resolve()
    os.chdir(notebooks.parent)
    os.environ["IN_TEST"] = "1"                         # nbdev writes nothing of its own
    nbdev.showdoc.BasicMarkdownRenderer = Renderer
    shutil.rmtree(out, ignore_errors=True)
    files = visible_files(notebooks)
    chapters = [path for path in files if path.suffix == ".ipynb"]
    for path in chapters: build_page(notebooks/path, out/page(path), path)
    for path in files:
        if path.suffix not in PICTURES: continue
        (out/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebooks/path, out/path)
    front = read_nb(out/"index.ipynb")
    front.cells += contents(chapters)
    write_nb(front, out/"index.ipynb")


if __name__ == "__main__": main(*sys.argv[1:])
