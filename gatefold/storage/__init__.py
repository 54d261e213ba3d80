"""Objects on disk or in S3, and tables, bundles and leases made of them. Begin with `objects`."""
