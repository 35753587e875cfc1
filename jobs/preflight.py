"""See by spark-submit whether driver and executors are alike, and can read and write the root.

spark-submit --py-files dist/recsys_spark.zip jobs/preflight.py --config FILE
"""

from recsys_spark.cli import job

if __name__ == "__main__":
    job("preflight")
