"""Known vulnerabilities of the pinned packages, by pip-audit; `python -m tests.vulnerabilities`.

A finding fails the check unless it stands in `ACCEPTED` with its reason. A registry or network
without advisory data cannot fail it, and is named.
"""

import json
import subprocess
import sys

# Identifier of an advisory -> why it does not concern this product.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """Print one line, and one more for each finding; 1 where there is any."""
    command = [sys.executable, "-m", "pip_audit", "-r", "requirements.txt", "--no-deps"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print("pip-audit: no advisory data can be reached from here; nothing was audited")
        return 0
    audited = [p for p in packages if "skip_reason" not in p]
    found = [(p, v) for p in audited for v in p["vulns"] if v["id"] not in ACCEPTED]
    for package, advisory in found:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {advisory['id']}, mended in {fixed}")
    unknown = len(packages) - len(audited)
    print(
        f"pip-audit: {len(audited)} of {len(packages)} pinned packages audited, "
        f"{unknown} unknown to the advisory service here, {len(found)} findings"
    )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
