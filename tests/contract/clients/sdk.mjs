// @neon/sdk against the API whose address, key and organization are in the environment; prints what it saw.
import { createNeonClient } from "@neon/sdk";

const neon = createNeonClient({
  apiKey: process.env.NEON_API_KEY,
  baseUrl: process.env.NEON_API_HOST,
  orgId: process.env.NEON_ORG_ID,
  throwOnError: true,
  wait: { pollIntervalMs: 20, timeoutMs: 20000 },
});
const made = await neon.projects.createAndConnect({ name: "from-sdk", pooled: true });
const projectId = made.project.id;
const branch = await neon.branches.create({ projectId, name: "copy" });
await neon.branches.delete({ projectId, branchId: (branch.branch ?? branch).id });
const read = await neon.projects.get({ projectId });
await neon.projects.delete({ projectId });
const gone = await neon.projects.get({ projectId }, { throwOnError: false });
console.log(JSON.stringify({ uri: made.connectionString, name: read.name, gone: gone.error.kind }));
