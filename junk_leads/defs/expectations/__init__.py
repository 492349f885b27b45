"""Great Expectations suites kept as data (`suites`), their validation (`validating`), and asking it (`asking`)."""
