// What Vercel's AI SDK sees of tally, by both of its providers: one function a feature, one line of JSON a check.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';
import { createOpenAI, VERSION as OPENAI } from '@ai-sdk/openai';
import { createOpenAICompatible, VERSION as COMPATIBLE } from '@ai-sdk/openai-compatible';
import { APICallError, embedMany, generateText, isStepCount, Output, RetryError, streamText, tool } from 'ai';
import { z } from 'zod';

// what it has to say of requests that it changes is nobody's concern here
globalThis.AI_SDK_LOG_WARNINGS = false;
const AI = createRequire(import.meta.url)('ai/package.json').version;
const { TALLY_URL, TALLY_KEY, TALLY_POOR_KEY, TALLY_STRATEGIES, TALLY_REAL_MODEL } = process.env;
const LIMIT_MS = 20_000;
const REAL_MS = 120_000;
const prompt = 'What is 6 x 7?';
const PIXEL =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const Product = z.object({ left: z.number(), right: z.number() });
const Sum = z.object({ answer: z.number(), sure: z.boolean(), steps: z.array(z.string()) });
const multiply = tool({ description: 'The product.', inputSchema: Product });

// The provider that any OpenAI-compatible server is used with.
function compatible(strategy, apiKey, fetch) {
  const baseURL = `${TALLY_URL}/${strategy}/v1`;
  const settings = { name: 'tally', includeUsage: true, supportsStructuredOutputs: true };
  const made = createOpenAICompatible({ ...settings, baseURL, apiKey, fetch });
  return {
    chat: (name) => made.chatModel(name),
    completion: (name) => made.completionModel(name),
    embedding: (name) => made.embeddingModel(name),
  };
}

// OpenAI's own provider, on its chat API and on its responses API.
function openai(strategy, apiKey, fetch) {
  const made = createOpenAI({ baseURL: `${TALLY_URL}/${strategy}/v1`, apiKey, fetch });
  return {
    chat: (name) => made.chat(name),
    completion: (name) => made.completion(name),
    embedding: (name) => made.embedding(name),
    responses: (name) => made(name),
  };
}

// A provider on one strategy; `tries` are the times at which it sent a request.
function client(provider, strategy, apiKey = TALLY_KEY) {
  const tries = [];
  const counted = (...args) => {
    tries.push(Date.now());
    return fetch(...args);
  };
  const exact = !['off', 'adaptive'].includes(strategy);
  return { ...provider(strategy, apiKey, counted), tries, scaled: strategy !== 'off', exact, strategy, provider };
}

// One sample may be the one that is wrong, and so may a vote that stops early; a full one is not.
function is42(api, text) {
  assert.match(text, api.exact ? /^42$/ : /^4[12]$/);
}

// One sample may be the broken one, and the next is not; a vote has no broken ones.
async function valid(api, ask) {
  try {
    return await ask();
  } catch (error) {
    if (api.scaled) throw error;
    return ask();
  }
}

// The result of a stream that was read to its end, whose pieces are its text; an error in it is raised.
async function read(asked) {
  let failed = null;
  const result = streamText({ ...asked, onError: ({ error }) => (failed = error) });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  if (failed) throw failed;
  assert.equal(pieces.join(''), (await result.steps).map((step) => step.text).join(''));
  return result;
}

async function refused(asked, status) {
  const error = await asked.then(
    () => assert.fail('no error came'),
    (caught) => caught,
  );
  const last = RetryError.isInstance(error) ? error.lastError : error;
  assert.ok(APICallError.isInstance(last), `${last?.name}: ${last?.message}`);
  assert.equal(last.statusCode, status);
  return last;
}

async function text(api, model = api.chat('text')) {
  const result = await generateText({ model, prompt, instructions: 'Be short.' });
  is42(api, result.text);
  assert.equal(result.finishReason, 'stop');
  assert.ok(result.usage.inputTokens >= 1 && result.usage.outputTokens >= 1);
}

async function stream(api, model = api.chat('text')) {
  const result = await read({ model, prompt });
  is42(api, await result.text);
  assert.equal(await result.finishReason, 'stop');
}

async function usageInStream(api, model = api.chat('text')) {
  const usage = await (await read({ model, prompt })).usage;
  assert.ok(usage.inputTokens >= 1 && usage.outputTokens >= 1);
}

async function tools(api, model = api.chat('tool')) {
  const result = await generateText({ model, prompt, tools: { multiply } });
  assert.equal(result.finishReason, 'tool-calls');
  assert.equal(result.toolCalls.length, 1);
  Product.parse(result.toolCalls[0].input);
}

async function toolsStreamed(api, model = api.chat('tool')) {
  const result = await read({ model, prompt, tools: { multiply } });
  const [call] = await result.toolCalls;
  assert.equal(call.toolName, 'multiply');
  Product.parse(call.input);
}

async function forcedTool(api, model = api.chat('tool')) {
  const other = tool({ inputSchema: z.object({}) });
  const toolChoice = { type: 'tool', toolName: 'multiply' };
  const result = await generateText({ model, prompt, tools: { other, multiply }, toolChoice });
  assert.equal(result.toolCalls[0].toolName, 'multiply');
  Product.parse(result.toolCalls[0].input);
}

async function toolLoop(api, model = api.chat('tool'), providerOptions = undefined) {
  for (const ask of [generateText, read]) {
    const seen = [];
    const execute = (asked) => seen.push(asked) && asked.left * asked.right;
    const run = tool({ description: 'The product.', inputSchema: Product, execute });
    const asked = { model, prompt, tools: { run }, stopWhen: isStepCount(3), providerOptions };
    const result = await ask(asked);
    assert.match(await result.text, /^4[12]$/);
    assert.equal(seen.length, 1);
    assert.equal((await result.steps).length, 2);
  }
}

async function structured(api, model = api.chat('json')) {
  const output = Output.object({ schema: Sum });
  Sum.parse(await valid(api, async () => (await generateText({ model, prompt, output })).output));
}

async function structuredStreamed(api, model = api.chat('json')) {
  const output = Output.object({ schema: Sum });
  Sum.parse(await valid(api, async () => (await read({ model, prompt, output })).output));
}

async function logprobs(api) {
  const providerOptions = { openai: { logprobs: 2 } };
  const { text, finalStep } = await generateText({ model: api.chat('logprobs'), prompt, providerOptions });
  assert.equal(finalStep.providerMetadata.openai.logprobs.map((entry) => entry.token).join(''), text);
}

async function seedAndStop(api) {
  const asked = { seed: 7, stopSequences: ['\n'], maxOutputTokens: 50, temperature: 0.8 };
  is42(api, (await generateText({ model: api.chat('text'), prompt, ...asked })).text);
}

async function images(api, model = api.chat('image')) {
  const content = [
    { type: 'text', text: 'What number is this?' },
    { type: 'file', mediaType: 'image/png', data: Buffer.from(PIXEL, 'base64') },
  ];
  assert.equal((await generateText({ model, messages: [{ role: 'user', content }] })).text, '42');
}

async function reasoning(api, model = api.chat('reasons')) {
  const result = await generateText({ model, prompt });
  is42(api, result.text);
  assert.ok(result.finalStep.reasoningText);
  assert.ok((await (await read({ model, prompt })).finalStep).reasoningText);
}

async function refusal(api, model = api.chat('refuses')) {
  const result = await generateText({ model, prompt });
  // it shows what is refused as text, and knows it by the reason to finish
  assert.ok(result.text);
  assert.equal(result.finishReason, 'content-filter');
  const streamed = await read({ model, prompt });
  assert.equal(await streamed.text, result.text);
  assert.equal(await streamed.finishReason, 'content-filter');
}

async function unknownField(api, model = api.chat('text')) {
  const providerOptions = { tally: { some_new_field: { deep: [1] } } };
  is42(api, (await generateText({ model, prompt, providerOptions })).text);
}

async function tallyField(api, model = api.chat('text')) {
  const providerOptions = { tally: { tally: { max_samples: 4, detail: true } } };
  const include = { responseBody: true };
  const { finalStep } = await generateText({ model, prompt, providerOptions, include });
  assert.equal(finalStep.response.body.tally.strategy, api.strategy);
  assert.equal(finalStep.response.body.tally.draws.length, finalStep.response.body.tally.samples);
  is42(api, await (await read({ model, prompt, providerOptions: { tally: { tally: { progress: true } } } })).text);
}

async function error400(api, model = api.chat('rejects')) {
  const error = await refused(generateText({ model, prompt }), 400);
  assert.ok(error.data.error.code && error.data.error.param);
  assert.equal(api.tries.length, 1);
  await refused(read({ model, prompt }), 400);
}

async function error402(api) {
  const poor = client(api.provider, api.strategy, TALLY_POOR_KEY);
  for (const ask of [generateText, read]) {
    poor.tries.length = 0;
    const error = await refused(ask({ model: poor.chat('text'), prompt }), 402);
    assert.equal(error.data.error.code, 'budget_exceeded');
    assert.equal(error.isRetryable, false);
    assert.equal(poor.tries.length, 1);
  }
}

async function error404(api, model = api.chat('no-such-model')) {
  const error = await refused(generateText({ model, prompt }), 404);
  assert.equal(error.data.error.code, 'model_not_found');
}

async function retryAfter429(api, model = api.chat('limited')) {
  const asked = `${prompt} (${api.strategy}, ${model.provider})`;
  is42(api, (await generateText({ model, prompt: asked })).text);
  // what is scaled waits in the proxy, so that the client need not
  assert.equal(api.tries.length, api.scaled ? 1 : 2);
  assert.ok(Date.now() - api.tries[0] >= 900, 'nobody waited as told');
}

async function upstream5xx(api, model = api.chat('broken')) {
  const error = await refused(generateText({ model, prompt, maxRetries: 1 }), 500);
  assert.equal(typeof error.data.error.message, 'string');
  assert.equal(api.tries.length, 2);
}

async function cancel(api, model = api.chat('endless')) {
  for (const ask of [generateText, read]) {
    const leave = new AbortController();
    setTimeout(() => leave.abort(), 100);
    const asked = { model, prompt, abortSignal: leave.signal };
    // a stream that is aborted ends; it does not fail
    if (ask === generateText) await assert.rejects(ask(asked), { name: 'AbortError' });
    else await ask(asked).catch(() => null);
  }
  await idle();
}

// The proxy has let go of whatever nobody waits for, within a second.
async function idle() {
  for (const end = Date.now() + 1000; ; await sleep(20)) {
    const metrics = await (await fetch(`${TALLY_URL}/metrics`)).text();
    if (/^tally_requests_in_flight 0/m.test(metrics)) return;
    assert.ok(Date.now() < end, 'the proxy goes on with what nobody waits for');
  }
}

async function timeout(api, model = api.chat('slow')) {
  await assert.rejects(generateText({ model, prompt, timeout: 100 }), { name: /^(Abort|Timeout)Error$/ });
}

async function completions(api, model = api.completion('text')) {
  is42(api, (await generateText({ model, prompt })).text);
  is42(api, await (await read({ model, prompt })).text);
}

async function embeddings(api, model = api.embedding('embed')) {
  const { embeddings } = await embedMany({ model, values: ['six', 'seven'] });
  assert.equal(embeddings.length, 2);
  assert.ok(embeddings.every((found) => found.length && found.every(Number.isFinite)));
}

// What its responses API sends back as references to things that a server keeps is sent whole instead.
const UNSTORED = { openai: { store: false } };

async function responses(api) {
  await text(api, api.responses('text'));
  await tools(api, api.responses('tool'));
  await toolLoop(api, api.responses('tool'), UNSTORED);
  await structured(api, api.responses('json'));
  await images(api, api.responses('image'));
  await refused(generateText({ model: api.responses('rejects'), prompt }), 400);
}

async function responsesStreamed(api) {
  await stream(api, api.responses('text'));
  await usageInStream(api, api.responses('text'));
  await toolsStreamed(api, api.responses('tool'));
  await structuredStreamed(api, api.responses('json'));
}

async function realText(api, model = api.chat(TALLY_REAL_MODEL)) {
  assert.ok((await generateText({ model, prompt, maxOutputTokens: 24, temperature: 0.8 })).text.trim());
}

async function realStream(api, model = api.chat(TALLY_REAL_MODEL)) {
  assert.ok((await (await read({ model, prompt, maxOutputTokens: 24, temperature: 0.8 })).text).trim());
}

const CHECKS = {
  text,
  stream,
  'usage in stream': usageInStream,
  tools,
  'tools streamed': toolsStreamed,
  'forced tool': forcedTool,
  'tool loop': toolLoop,
  structured,
  'structured streamed': structuredStreamed,
  'seed and stop': seedAndStop,
  images,
  refusal,
  'error 400': error400,
  'error 402 not retried': error402,
  'error 404': error404,
  'retry after 429': retryAfter429,
  'upstream 5xx': upstream5xx,
  cancel,
  timeout,
  completions,
  embeddings,
};
const EXTRAS = {
  reasoning,
  'unknown field': unknownField,
  'tally field': tallyField,
  ...(TALLY_REAL_MODEL && { 'real text': realText, 'real stream': realStream }),
};
const OWN = { logprobs, responses, 'responses streamed': responsesStreamed };

const PROVIDERS = [
  ['ai-sdk openai-compatible', `${AI}, ${COMPATIBLE}`, compatible, { ...CHECKS, ...EXTRAS }],
  ['ai-sdk openai', `${AI}, ${OPENAI}`, openai, { ...CHECKS, ...OWN }],
];
for (const strategy of TALLY_STRATEGIES.split(',')) {
  for (const [name, version, provider, checks] of PROVIDERS) {
    for (const [feature, check] of Object.entries(checks)) {
      const told = await Promise.race([
        check(client(provider, strategy)).then(
          () => null,
          (error) => `${error?.message ?? error}`.split('\n')[0],
        ),
        sleep(feature.startsWith('real ') ? REAL_MS : LIMIT_MS, 'it took too long', { ref: false }),
      ]);
      console.log(JSON.stringify({ client: name, version, strategy, feature, ok: told === null, told: told ?? '' }));
    }
  }
}
