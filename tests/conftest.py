"Tests run offline, on the CPU, one thread a process: several run at once"
import os
os.environ.update({k: os.environ.get(k, v) for k, v in dict(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false").items()})
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
