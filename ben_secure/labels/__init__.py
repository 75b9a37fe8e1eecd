"""The class names of BigEarthNet, and a reader for the metadata tables of a dataset.

``nomenclature`` has the 43 and the 19 classes. ``tables`` reads CSV and Parquet. This package does not depend on
patches.
"""
