"""Package definition of recsys_spark.

The base requirements are what every Spark executor needs, and are kept few on purpose: each one
costs install time on every machine of a cluster. The rest lives in extras. Exact versions of
everything, transitive packages included, are in ``constraints.txt``; the ranges here only state
what is known not to work.

    pip install -c constraints.txt .            # the Spark side
    pip install -c constraints.txt .[train]     # + training (Horovod must be built first: `make setup`)
    pip install -c constraints.txt .[tune]      # + recsys-spark tune; .[mlflow]: + trainings told to MLflow
    make setup                                  # all of it, into .venv
"""

from setuptools import Extension, find_packages, setup

SPARK = [
    "pyspark>=4.0,<4.1",  # 4.1 wants pyarrow >= 15, which Petastorm cannot use
    "pyarrow>=14.0.2,<15",
    "numpy>=1.26,<2",  # pyarrow 14 is built against NumPy 1
    "pandas>=2.2,<3",
    "pydantic>=2.10",
    "pyyaml>=6",
    "typer>=0.15",
    "rich>=13",
    "psutil>=5.9",
]

TRAIN = [
    "torch>=2.6",
    "petastorm==0.12.1",  # 0.13.1 loses row groups without a word
    "horovod==0.28.1",
    "tensorboard>=2.18",
    "safetensors>=0.4",
    "scipy>=1.11",
]

TUNE = ["optuna>=4.4"]  # recsys-spark tune

MLFLOW = ["mlflow-skinny>=3.1", "sqlalchemy>=2", "alembic>=1.13"]  # setting 'tracking'; the last two for sqlite: URIs

REPORT = ["jinja2>=3.1", "matplotlib>=3.8"]

TEST = [
    "pytest>=8",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    "chispa>=0.10",
    "ranx>=0.3.20",
    "implicit>=0.7.2",
    "polars>=1.30",
    "duckdb>=1.2",
]

BENCH = ["deepctr-torch>=0.3", "faiss-cpu>=1.9"]  # what benchmarks compare with, beside implicit

NOTEBOOK = ["nbclient>=0.10", "nbformat>=5.10", "nbconvert>=7.16", "ipykernel>=6.29"]

LINT = ["ruff>=0.9", "mypy>=1.14", "types-PyYAML", "types-psutil", "pandas-stubs>=2.2,<3"]

EXTRAS = {
    "train": TRAIN,
    "tune": TUNE,
    "mlflow": MLFLOW,
    "report": REPORT,
    "test": TEST,
    "bench": BENCH,
    "notebook": NOTEBOOK,
    "lint": LINT,
}

# Where they cannot be compiled, the set-up says so and goes on: NumPy and torch then do the same, slower.
KERNELS = Extension(
    "recsys_spark.native._kernels",
    [
        "recsys_spark/native/top_k.cpp",
        "recsys_spark/native/layers.cpp",
        "recsys_spark/native/coded_layers.cpp",
        "recsys_spark/native/als.cpp",
        "recsys_spark/native/rows.cpp",
        "recsys_spark/native/updates.cpp",
    ],
    language="c++",
    extra_compile_args=["-O3", "-std=c++17", "-fno-math-errno"],  # square roots of vectors leave no error numbers
    optional=True,
)

setup(
    name="recsys_spark",
    version="0.1.0",
    description="Nightly recommendation job: interaction logs in Parquet to published top-N tables",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires="==3.11.*",
    # With an explicit root an editable install is a plain path entry: packages added later are found.
    package_dir={"": "."},
    packages=find_packages(include=["recsys_spark", "recsys_spark.*"]),
    package_data={"": ["py.typed", "*.html", "*.yaml", "*.j2", "*.css"]},
    ext_modules=[KERNELS],
    install_requires=SPARK,
    extras_require={**EXTRAS, "dev": sorted({req for reqs in EXTRAS.values() for req in reqs})},
    entry_points={"console_scripts": ["recsys-spark = recsys_spark.cli:main"]},
)
