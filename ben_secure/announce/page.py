"""Text for people: ``RELEASE.md``, a section for the dataset's page, and ``README.md``, a card for Hugging Face."""

from __future__ import annotations

import json

from ben_secure.announce.release import Release, files_of
from ben_secure.signing.manifest import MANIFEST_SUFFIX

# The licences in Hugging Face's list that are usual for datasets; https://huggingface.co/docs/hub/repositories-licenses
_LICENSES = (
    "apache-2.0 cc-by-2.0 cc-by-3.0 cc-by-4.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-4.0 cc-by-sa-3.0 "
    "cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 etalab-2.0 mit odbl odc-by pddl"
)
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def page(release: Release, sums_name: str) -> str:
    """Write the section for the dataset's page.

    Args:
        release: The release.
        sums_name: Name of the file of checksums.

    Returns:
        Markdown.
    """
    name, version, first = release.statement.name, release.statement.version, release.databases[0]
    commands = "\n".join(f"$ {release.command(database)}" for database in release.databases)
    return f"""## {name} {version}

{_facts(release)}

### Verify it

{_download(release)}
Save this key as `publisher.pub`, and compare its fingerprint with one from another source (a paper, a
person): `openssl pkey -pubin -in publisher.pub -outform DER | sha256sum`

```
{release.public_key.strip()}
```

With ben_secure installed, check everything at once:

```console
{commands}
```

or verify each patch when you read it, without a separate step:

```python
from ben_secure import PatchReader
from ben_secure.signing.keys import read_verify_key

key = read_verify_key("publisher.pub")
with PatchReader({first!r}, verify_key=key, name={name!r}, version={version!r}) as patches:
    ...
```

`sha256sum -c {sums_name}` finds download errors. Only the commands above prove who published the data.
"""


def _facts(release: Release) -> str:
    statement = release.statement
    digests = {one.name: one.manifest_sha256 for one in statement.subjects}
    facts = [f"- Records: {release.count:,}"]
    if digests:
        facts += [f"- Records of `{database}`: {count:,}" for database, count in release.counts.items()]
    facts += [] if statement.license is None else [f"- Licence: {statement.license}"]
    facts.append(f"- Signed: {statement.created:%Y-%m-%d %H:%M:%S} UTC")
    facts.append(f"- Fingerprint of the publisher's key (SHA-256): `{release.fingerprint}`")
    for database in release.databases:
        digest = digests.get(database, statement.manifest_sha256)
        facts.append(f"- SHA-256 of `{database}{MANIFEST_SUFFIX}`: `{digest}`")
    return "\n".join(facts)


def _download(release: Release) -> str:
    data, manifest, envelope = files_of(release.databases[0])
    if len(release.databases) == 1:
        return f"Download `{data.partition('/')[0]}`, `{manifest}` and `{envelope}` into one\nfolder."
    return (
        "Download the databases that you need into one folder, each with its two files `.manifest` and\n"
        "`.manifest.dsse.json`, and keep their names. A renamed database is refused."
    )


def card(release: Release, sums_name: str) -> str:
    """Write the card for Hugging Face: metadata, then the page. Arguments and result are those of ``page``."""
    statement = release.statement
    metadata: list[str] = []
    if statement.license is not None:
        known = statement.license.lower() in _LICENSES.split()
        metadata.append(f"license: {statement.license.lower() if known else 'other'}")
        metadata += [] if known else [f"license_name: {json.dumps(statement.license)}"]
    size = next((text for limit, text in _SIZES if release.count < limit), "10M<n<100M")
    tags = "\n".join(f"- {tag}" for tag in ("bigearthnet", "earth-observation", "lmdb", "remote-sensing"))
    metadata += [
        f"pretty_name: {json.dumps(statement.name)}",
        f"tags:\n{tags}",
        "task_categories:\n- image-classification",
        f"size_categories:\n- {size}",
    ]
    text = "\n".join(metadata)
    return f"---\n{text}\n---\n\n{page(release, sums_name)}"
