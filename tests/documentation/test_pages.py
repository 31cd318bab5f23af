"""The pages cannot lie: every example is run, and its output compared with what stands there."""

from __future__ import annotations

import pytest

from sandbox.schema import DatabaseUrls
from tests.documentation.pages import DOCS, PAGES, run_page


@pytest.mark.parametrize("name", PAGES)
async def test_every_example_of_the_page_prints_what_the_page_says(name: str, urls: DatabaseUrls) -> None:
    """If it is the page that is out of date: `make docs` writes what the examples print now."""
    text = (DOCS / name).read_text()
    assert await run_page(text, urls) == text


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```python\n1 / 0\n```\n", "ZeroDivisionError"),
        ("```sh\nrm -rf /\n```\n", "only curl"),
        ("```sh\ncurl $COFFER/v1/orgs/$ORG/ledger/accounts\n```\n", "bearer token is needed"),
    ],
)
async def test_an_example_that_fails_fails_its_page(block: str, complaint: str, urls: DatabaseUrls) -> None:
    with pytest.raises(RuntimeError, match=rf"^the block at line 3 failed: .*{complaint}"):
        await run_page(f"# A page\n\n{block}", urls)


async def test_an_output_that_is_wrong_or_missing_or_too_much_is_put_right(urls: DatabaseUrls) -> None:
    text = """\
```python
print(1 + 1)
```

```text output
3
```

```python
print("seen")
```

```python
quiet = True
```

```text output
not so quiet
```
"""
    right = """\
```python
print(1 + 1)
```

```json output
2
```

```python
print("seen")
```

```text output
seen
```

```python
quiet = True
```
"""
    assert await run_page(text, urls) == right


async def test_what_differs_from_run_to_run_is_given_a_name_and_the_rest_is_left(urls: DatabaseUrls) -> None:
    text = """\
```python
from uuid import UUID, uuid4
from core.clock import iso, now
from core.identifiers import new_id

one, other = uuid4(), new_id("po")
print(one, other, one, UUID("cc82fa1d-fc7a-478c-a734-d3bce40464e7"))
print(iso(now()), "2026-01-12T12:00:00.000000Z")
```
"""
    ran = await run_page(text, urls)
    assert "<id 1> <id 2> <id 1> cc82fa1d-fc7a-478c-a734-d3bce40464e7\n" in ran
    assert "<now> 2026-01-12T12:00:00.000000Z\n" in ran
