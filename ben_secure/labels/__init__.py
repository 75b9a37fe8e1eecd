"""What a patch is labelled with: the class names of BigEarthNet, and the tables that come with a dataset.

``nomenclature`` has the 43 and the 19 classes, ``tables`` reads CSV and Parquet. Nothing here knows patches.
"""
