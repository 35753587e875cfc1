"""Run the stage gate by spark-submit.

spark-submit --py-files dist/recsys_spark.zip jobs/gate.py --config FILE --date YYYY-MM-DD
"""

from recsys_spark.cli import job

if __name__ == "__main__":
    job("gate")
