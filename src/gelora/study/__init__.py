"""Compare methods: tasks × methods × seeds, run, resumed, put together; the one place that may use everything."""

from gelora.study.comparing import compare as compare
from gelora.study.comparing import list_runs as list_runs
from gelora.study.reading import read_study as read_study
