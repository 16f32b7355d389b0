// Answers which requests some policies allow, as IAM would: reads the questions from standard input as JSON.
import { readFileSync } from 'node:fs'
import { runSimulation } from '@cloud-copilot/iam-simulate'

const { account, policies, questions } = JSON.parse(readFileSync(0, 'utf8'))
const answers = []
for (const { policy, principal, action, resource, context, resourcePolicy } of questions) {
  const response = await runSimulation(
    {
      identityPolicies: [{ name: 'policy', policy: { Version: '2012-10-17', Statement: policies[policy] } }],
      serviceControlPolicies: [],
      resourceControlPolicies: [],
      resourcePolicy: resourcePolicy ?? undefined,
      request: { principal, action, resource: { resource, accountId: account }, contextVariables: context },
    },
    {},
  )
  const results = response.resultType === 'wildcard' ? response.results : [response.result ?? {}]
  answers.push({
    errors: response.errors ?? null,
    result: response.overallResult ?? null,
    ignored: results.flatMap((result) => result.ignoredContextKeys ?? []),
  })
}
process.stdout.write(JSON.stringify(answers))
