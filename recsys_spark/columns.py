"""Column names, written once. Tables, Spark code and Arrow code all take them from here."""

from __future__ import annotations

# interactions
USER_ID = "user_id"
ITEM_ID = "item_id"
EVENT_TYPE = "event_type"
EVENT_TIME = "event_time"
VALUE = "value"
EVENT_KEY = "event_key"
WEIGHT = "weight"

# quarantine and ledger
SOURCE_FILE = "source_file"
RULE = "rule"
RAW = "raw"
ROW_HASH = "row_hash"
ROWS = "rows"

# ids
INDEX = "index"
USER_INDEX = "user_index"
ITEM_INDEX = "item_index"
USER_BUCKET = "user_bucket"
LABEL_TEXT = "label"

# examples and histories
TIME = "time"  # event time in whole seconds since 1970-01-01 UTC
SPLIT = "split"
CUT = "cut"
TARGET = "target"
OFFSET = "offset"  # added to a ranker's logit in training
GIVEN = "given"  # kind of labels that stand in the log
ITEMS = "items"
TIMES = "times"
WEIGHTS = "weights"

# vectors
VECTOR = "vector"
BIAS = "bias"

# item_rules
ALLOWED = "allowed"
BOOST = "boost"
PINNED = "pinned"
NEW = "new"
CAPS = "caps"

# top_n
RANK = "rank"
SCORE = "score"
SOURCE = "source"
REASON = "reason"

PADDING_INDEX = 0
UNKNOWN_INDEX = 1
FIRST_INDEX = 2

SECONDS_PER_DAY = 86_400
