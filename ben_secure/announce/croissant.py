"""``croissant.json``: the release in Croissant 1.0, the metadata that search engines and dataset hubs read.

It lists the files with their digests. It has no record sets, because Croissant does not support LMDB, and values must
be read with verification. Specification: https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

from __future__ import annotations

import json

from ben_secure.announce.release import Release

_TERMS = (
    "citeAs column equivalentProperty extract field fileObject fileProperty fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS.split()},
}


def croissant(release: Release) -> str:
    """Write the metadata of a release.

    Args:
        release: The release.

    Returns:
        JSON-LD, in ASCII.
    """
    statement = release.statement
    document: dict[str, object] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": statement.name,
        "description": f"{statement.name} {statement.version}: {release.count:,} patches of BigEarthNet in "
        f"{len(release.databases)} LMDB database{'s' if len(release.databases) > 1 else ''}, with a signed manifest.",
        "version": statement.version,
        "datePublished": statement.created.date().isoformat(),
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.path,
                "name": file.path,
                "contentUrl": file.path,
                "contentSize": f"{file.size_bytes} B",
                "encodingFormat": "application/json" if file.path.endswith(".json") else "application/octet-stream",
                "sha256": file.sha256,
            }
            for file in release.files
        ],
    }
    if statement.license is not None:
        document["license"] = statement.license
    return json.dumps(document, indent=2) + "\n"
