SELECT max(version) FROM {schema}.store_version
