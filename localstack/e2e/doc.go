// Package e2e holds real Kafka clients, each a small program behind one contract, to the same expectations of one broker.
//
// The contract is in package contract, the programs in clients/ and librdkafka/, the expectations in the tests here:
// every codec with its batch attributes, a group through a rebalance, a seek by time, a resume from a commit.
//
//	go test ./localstack/e2e                                 franz-go against an agent that the suite builds and starts
//	VARVE_E2E=1 go test ./localstack/e2e                     every client that is installed
//	VARVE_TEST_ALL=1 go test ./localstack/e2e                every client; a missing one fails (localstack/e2e/install)
//	VARVE_E2E_BOOTSTRAP=HOST:PORT …                          against a broker that runs already
//	VARVE_E2E_BROKER=apache …                                against Apache Kafka itself, which proves the suite
package e2e
