"""Run the stage watch by spark-submit.

spark-submit --py-files dist/recsys_spark.zip jobs/watch.py --config FILE --date YYYY-MM-DD
"""

from recsys_spark.cli import job

if __name__ == "__main__":
    job("watch")
