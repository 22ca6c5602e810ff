"""Moto's server: SQS, CloudWatch, CloudWatch Logs and S3 in one process, with signatures and permissions checked."""

from __future__ import annotations

import json
import os
import secrets
import sys
from typing import Any, Self

import boto3
from botocore.config import Config

from tests.services.base import Service, free_port, port_open

REGION = "us-east-1"
ACCOUNT = "123456789012"
_SETUP_REQUESTS = 3
"""Those that make the first user; whatever comes later must be signed with a known key and permitted."""


class Moto(Service):
    """One server with one administrator; each test takes queues, log groups and metric namespaces of its own."""

    name = "moto"

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.access_key_id = ""
        self.secret_access_key = ""

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Start it empty and make the administrator."""
        self.spawn(
            [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            ready=lambda: port_open(self.port),
            env={"INITIAL_NO_AUTH_ACTION_COUNT": str(_SETUP_REQUESTS), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self.access_key_id, self.secret_access_key = "setup", "setup"
        self.access_key_id, self.secret_access_key = self.new_key("*")
        return self

    def client(self, service: str) -> Any:
        """The administrator's client of a service; close it."""
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(retries={"total_max_attempts": 2}, proxies={}),
        )

    def new_key(self, *actions: str) -> tuple[str, str]:
        """Access key and secret of a new user who may do just these, such as `sqs:SendMessage`."""
        iam, user = self.client("iam"), f"user-{secrets.token_hex(4)}"
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
        try:
            iam.create_user(UserName=user)
            key = iam.create_access_key(UserName=user)["AccessKey"]
            iam.put_user_policy(UserName=user, PolicyName="tests", PolicyDocument=json.dumps(policy))
        finally:
            iam.close()
        return key["AccessKeyId"], key["SecretAccessKey"]

    @staticmethod
    def fresh_name(kind: str) -> str:
        """A name that nothing has yet."""
        return f"{kind}-{secrets.token_hex(6)}"
