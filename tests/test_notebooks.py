"Every notebook is a test: each runs through nbdev in a process of its own"
import json, os, subprocess, sys
import pytest
from nbdev.config import get_config
from conftest import ROOT

CFG = get_config(ROOT)
def is_hidden(path): return any(part[0] in "._" for part in path.relative_to(CFG.nbs_path).parts)

NBS = sorted(path for path in CFG.nbs_path.rglob("*.ipynb") if not is_hidden(path))
LIMIT = int(os.environ.get("NB_TIMEOUT", 300))       # seconds for one notebook
FLAGS = os.environ.get("NB_FLAGS", "").split()       # cells run besides the default ones: NB_FLAGS="slow cuda"
CODE = """
import json, sys
from nbdev.test import test_nb
a = json.loads(sys.argv[1])
ok, secs = test_nb(a["fn"], skip_flags=a["skip"], force_flags=a["force"], basepath=a["root"], cell_timeout=a["cell"])
sys.exit(0 if ok else 1)
"""

@pytest.mark.parametrize("nb", NBS, ids=lambda p: p.relative_to(CFG.nbs_path).as_posix())
def test_notebook(nb):
    settings = dict(fn=str(nb), skip=list(CFG.tst_flags), force=FLAGS, root=str(ROOT), 
                    cell=min(LIMIT, CFG.cell_timeout))
    arg = json.dumps(settings)
    try: r = subprocess.run([sys.executable, "-c", CODE, arg], capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired: pytest.fail(f"{nb.name} took over {LIMIT}s", pytrace=False)
    if r.returncode: pytest.fail(f"{r.stdout[-2000:]}\n{r.stderr[-6000:]}", pytrace=False)
