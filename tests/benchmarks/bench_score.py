"""Scoring speed beside the bare matrix product and beside peers, everything in one run.

    make bench-score                     minutes
    BENCH_SCALE=full make bench-score    the sizes that are to be reported
    BENCH_ONLY=kernel,job make bench-score

| part | what is measured |
|---|---|
| kernel | exact top-k, 60,000 items: beside the product alone, implicit, faiss, torch; 200 items masked a user |
| precision | lists by whole numbers beside exact ones: speed and recall, on random vectors and the demo's |
| rectools | the kernel beside RecTools' ranker, which has an environment of its own (`make setup-peers`) |
| deepfm | DeepFM in parts beside the plain module: each user's best of a whole catalogue, and 500 candidates a user |
| job | the Spark job that writes everybody's lists, beside the kernel alone, and MLlib's recommendForAllUsers |

Each part is a process of its own. What is compared runs in turn, a few times; ratios are printed, and the last line is
JSON. No time ends the run.
"""

from __future__ import annotations

from parts import chosen, run_parts

PARTS = ("kernel", "precision", "rectools", "deepfm", "job")
KEYS = ("kernel_over_gemm", "kernel_over_best_peer", "masked_over_unmasked_time", "job_over_kernel_time",
        "kernel_over_rectools", "kernel_over_rectools_masked", "int8_over_exact_random_100", "int8_recall_random_100",
        "job_over_mllib", "split_deepfm_over_plain", "split_deepfm_logits_over_plain", "split_deepfm_max_abs_diff",
        "rerank_users_per_s")  # fmt: skip

if __name__ == "__main__":
    run_parts(__file__, "score", chosen(PARTS), KEYS)
