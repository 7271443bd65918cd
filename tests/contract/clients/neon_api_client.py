"""PyPI's neon-api against the API whose address, key and organization are in the environment."""

import json
import os
import time

from neon_api import NeonAPI

neon = NeonAPI(api_key=os.environ["NEON_API_KEY"], base_url=os.environ["NEON_API_HOST"] + "/")


def settled(project_id: str) -> None:
    while any(operation.status.value != "finished" for operation in neon.operations(project_id).operations):
        time.sleep(0.02)


made = neon.project_create(project={"name": "from-neon-api", "org_id": os.environ["NEON_ORG_ID"]})
project_id = made.project.id
branch_id = neon.branches(project_id).branches[0].id
settled(project_id)
neon.project_update(project_id, project={"name": "renamed-by-neon-api"})
neon.role_create(project_id, branch_id, "from_neon_api")
settled(project_id)
database = neon.databases(project_id, branch_id).databases[0].name
uri = neon.connection_uri(project_id, database_name=database, role_name="from_neon_api", pooled=False)
names = [role.name for role in neon.roles(project_id, branch_id).roles]
name = neon.project(project_id).project.name
neon.project_delete(project_id)
print(json.dumps({"uri": uri.uri, "roles": names, "name": name}))
