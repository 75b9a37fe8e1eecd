"""``python -m ben_secure`` runs the command ``ben-secure``."""

import sys

if __name__ == "__main__":
    try:
        from ben_secure.cli import run

        run()
    except KeyboardInterrupt:  # while the command line is imported
        print("ben-secure: interrupted", file=sys.stderr)
        sys.exit(130)
