"""Features become a judged model: trained, validated, calibrated, measured; compared, tuned, let in.

In order: training, validation, calibration, grading, metrics, leaks, side_by_side, evaluation, tuning, experimenting,
gating.
"""
