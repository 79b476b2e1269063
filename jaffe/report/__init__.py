"""A run as one HTML page: what was trained, how it went, and what the net gets wrong."""

from jaffe.report.whole import report as report
from jaffe.report.whole import write as write
