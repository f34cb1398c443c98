// `node web_job.mjs job.json`: ONNX Runtime Web, as WebAssembly on one thread, answers every input of a job.
// The last line of a job that failed says why.
import { readFileSync, writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));
try {
  const ort = await import(pathToFileURL(job.runtime).href);
  ort.env.wasm.numThreads = 1;
  const before = process.memoryUsage().rss;
  const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(job.out)), {
    executionProviders: ['wasm'],
  });
  const tensor = (ids) => new ort.Tensor('int64', BigInt64Array.from(ids.map(BigInt)), [1, ids.length]);
  const answers = [], took = [];
  for (const row of job.rows) {
    const feeds = Object.fromEntries(job.names.map((name, i) => [name, tensor(row[i])]));
    const begun = performance.now();
    const said = await session.run(feeds);
    took.push(performance.now() - begun);
    answers.push(Array.from(said.logits.data));
  }
  const memory = Math.max(0, process.memoryUsage().rss - before);
  writeFileSync(job.result, JSON.stringify({ answers, took, memory_bytes: memory, node: process.version }));
} catch (error) {
  console.log(`failed: ${String(error).split('\n')[0].slice(0, 300)}`);
  process.exit(1);
}
