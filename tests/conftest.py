"Tests run offline, on the CPU, one thread a process: several run at once"
import os
SETTINGS = dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
