"""OpenAlgo's database as OpenAlgo makes it: SQLAlchemy's schema, tokens encrypted by the same library in the same way.

Writes one login, says so, and replaces it by each line of stdin. Ends when stdin does.
"""

import argparse
import base64
import json
import sqlite3
import sys

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

arguments = argparse.ArgumentParser()
arguments.add_argument("--file", required=True)
arguments.add_argument("--pepper", required=True)
arguments.add_argument("--salt", required=True)
options = arguments.parse_args()

kdf = PBKDF2HMAC(algorithm=hashes.SHA256(), length=32, salt=bytes.fromhex(options.salt), iterations=100000)
fernet = Fernet(base64.urlsafe_b64encode(kdf.derive(options.pepper.encode())))

db = sqlite3.connect(options.file)
db.execute("PRAGMA journal_mode=WAL")
db.execute(
    "CREATE TABLE auth (id INTEGER NOT NULL, name VARCHAR(255) NOT NULL, auth TEXT NOT NULL, feed_token TEXT, "
    "broker VARCHAR(20) NOT NULL, user_id VARCHAR(255), is_revoked BOOLEAN, PRIMARY KEY (id), UNIQUE (name))"
)
db.commit()


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


say(event="ready")
for line in sys.stdin:
    login = json.loads(line)
    encrypted = {key: fernet.encrypt(login[key].encode()).decode() for key in ("token", "feed_token")}
    db.execute(
        "INSERT OR REPLACE INTO auth (id, name, auth, feed_token, broker, user_id, is_revoked) VALUES (1, ?, ?, ?, ?, ?, 0)",
        (login["user"], encrypted["token"], encrypted["feed_token"], login["broker"], login["client"]),
    )
    db.commit()
    say(event="stored")
