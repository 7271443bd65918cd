// @neondatabase/api-client against the API whose address, key and organization are in the environment.
import { createRequire } from "node:module";

const { createApiClient } = createRequire(import.meta.url)("@neondatabase/api-client");
const api = createApiClient({ apiKey: process.env.NEON_API_KEY, baseURL: process.env.NEON_API_HOST });
const org_id = process.env.NEON_ORG_ID;

async function settled(projectId) {
  for (;;) {
    const { data } = await api.listProjectOperations({ projectId });
    if (data.operations.every((operation) => operation.status === "finished")) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const { data: made } = await api.createProject({ project: { name: "from-api-client", org_id } });
const projectId = made.project.id;
const branchId = made.branch.id;
const endpointId = made.endpoints[0].id;
await settled(projectId);
await api.updateProject(projectId, { project: { settings: { quota: { active_time_seconds: 1000 } } } });
await api.suspendProjectEndpoint(projectId, endpointId);
await settled(projectId);
const { data: asleep } = await api.getProjectEndpoint(projectId, endpointId);
await api.createProjectBranchRole(projectId, branchId, { role: { name: "from_api_client" } });
await settled(projectId);
const { data: uri } = await api.getConnectionUri({
  projectId,
  database_name: made.databases[0].name,
  role_name: "from_api_client",
  pooled: true,
});
const now = Date.now();
const { data: consumption } = await api.getConsumptionHistoryPerProjectV2({
  from: new Date(now - 3600e3).toISOString(),
  to: new Date(now + 3600e3).toISOString(),
  granularity: "hourly",
  org_id,
  metrics: ["compute_unit_seconds", "root_branch_bytes_month"],
  project_ids: [projectId],
});
await api.deleteProject(projectId);
console.log(
  JSON.stringify({
    state: asleep.endpoint.current_state,
    uri: uri.uri,
    projects: consumption.projects.map((project) => project.project_id === projectId),
  }),
);
