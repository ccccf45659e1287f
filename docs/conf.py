from configparser import ConfigParser
from pathlib import Path
root = Path(__file__).resolve().parent.parent
parser = ConfigParser(delimiters=["="])
parser.read(root/"settings.ini")
cfg = parser["DEFAULT"]
project, author, release = cfg["title"], cfg["author"], cfg["version"]
copyright = cfg["copyright"]
extensions = ["myst_nb", "sphinx_copybutton", "sphinx_design"]
nb_execution_mode = "off"          # the outputs are the committed ones
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline", "deflist", "tasklist"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
html_theme = "furo"
pygments_dark_style = "one-dark"
html_title = project
html_baseurl = cfg["doc_host"] + cfg["doc_baseurl"] + "/"
html_static_path = ["_static"]
html_css_files = ["nb.css"]
html_show_sphinx = False
html_theme_options = dict(source_repository=cfg["git_url"], source_branch=cfg["branch"], source_directory="nbs/")

if (root/"docs/_static/vendor").exists():  # scripts kept next to the site, for a build which needs no network
    mathjax_path = "vendor/tex-svg.js"
    nb_ipywidgets_js = {"vendor/require.js": {}, "vendor/embed-amd.js": {}}
