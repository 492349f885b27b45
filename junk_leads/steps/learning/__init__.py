"""Features become a judged model: trained, validated, calibrated, measured, tuned, compared, let in."""
