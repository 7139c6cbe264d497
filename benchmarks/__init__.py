"""Programs that measure, and print ratios; none of them decides whether the project is correct."""
