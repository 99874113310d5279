"""Reads a page of figures with the parsers of prometheus_client, unchanged, and says what it has.

Usage: check_metrics.py text|openmetrics < PAGE
"""

import sys

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

READERS = {
    "text": parser.text_string_to_metric_families,
    "openmetrics": openmetrics_parser.text_string_to_metric_families,
}

families = list(READERS[sys.argv[1]](sys.stdin.read()))
samples = [sample for family in families for sample in family.samples]
exemplars = [sample for sample in samples if sample.exemplar]
print(len(families), len(samples), len(exemplars))
