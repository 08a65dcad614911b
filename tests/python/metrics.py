"""Reads metrics from stdin as a scraper would; fails on what is no OpenMetrics. Prints how many samples there are."""

import sys

from prometheus_client.openmetrics.parser import text_string_to_metric_families

families = list(text_string_to_metric_families(sys.stdin.read()))
names = [family.name for family in families]
assert len(names) == len(set(names)), "a family is there twice"
for family in families:
    assert family.documentation, f"{family.name} is not explained"
    assert family.type != "unknown", f"{family.name} has no type"
print(sum(len(family.samples) for family in families))
