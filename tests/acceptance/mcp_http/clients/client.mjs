// A client of the TypeScript SDK: reads what to do from stdin and prints what it saw, both as JSON.
//   {sdk, http: {url, token} | stdio: {command, args, env}, mode?, calls: [[name, arguments], …]}
import { text } from "node:stream/consumers";

const { sdk, http, stdio, mode, calls } = JSON.parse(await text(process.stdin));

async function parts() {
  if (sdk === "@modelcontextprotocol/client") {
    const { Client, StreamableHTTPClientTransport } = await import(sdk);
    const { StdioClientTransport } = await import(`${sdk}/stdio`);
    return { Client, StreamableHTTPClientTransport, StdioClientTransport };
  }
  const { Client } = await import(`${sdk}/client/index.js`);
  const { StreamableHTTPClientTransport } = await import(`${sdk}/client/streamableHttp.js`);
  const { StdioClientTransport } = await import(`${sdk}/client/stdio.js`);
  return { Client, StreamableHTTPClientTransport, StdioClientTransport };
}

const { Client, StreamableHTTPClientTransport, StdioClientTransport } = await parts();
const transport = http
  ? new StreamableHTTPClientTransport(new URL(http.url), {
      requestInit: { headers: { Authorization: `Bearer ${http.token}` } },
    })
  : new StdioClientTransport({ ...stdio, stderr: "ignore" });
const client = new Client({ name: "test", version: "1" }, mode ? { versionNegotiation: { mode } } : {});
const problems = [];
client.onerror = (error) => problems.push(String(error));
await client.connect(transport);
const { tools } = await client.listTools();
const answers = [];
let handle; // of the last answer that had one: what a call has "the last handle" for
for (const [name, given] of calls) {
  try {
    const args = given.handle === "the last handle" ? { ...given, handle } : given;
    const answer = await client.callTool({ name, arguments: args });
    handle = answer.structuredContent?.next_handle ?? handle;
    answers.push(answer);
  } catch (error) {
    answers.push({ thrown: error.message, code: error.code });
  }
}
const session = transport.sessionId ?? null;
const protocol = client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion;
if (http && transport.terminateSession) await transport.terminateSession();
const server = client.getServerVersion().name;
await client.close();
console.log(JSON.stringify({ server, protocol, session, tools, answers, problems }));
