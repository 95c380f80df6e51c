"""One HTML page that says what was measured and planned, for somebody who was not there; it needs no network."""

from gelora.report.finding import Finding as Finding
from gelora.report.findings import comparison_findings as comparison_findings
from gelora.report.findings import plan_findings as plan_findings
from gelora.report.page import write_report as write_report
from gelora.report.profile_findings import profile_findings as profile_findings
from gelora.report.sources import report_files as report_files
