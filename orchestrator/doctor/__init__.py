"""Whether everything that jobs need is there, and how to mend what is not."""

from orchestrator.doctor.examine import examine
from orchestrator.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
