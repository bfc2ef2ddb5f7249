/* Asks an export, through TensorFlow's C API alone: no Python, no csmf_tf, no protobuf.

   serving_client EXPORT OPS THREADS IDS SCORES [strings TENSOR ROWS COLUMNS VALUE...] [floats TENSOR ROWS ...]

   EXPORT is a version folder, OPS a library with further ops or "-". The other names are those of tensors,
   as `saved_model_cli show --all` prints them for a signature: IDS and SCORES of its outputs, then each of
   its inputs with its values. COLUMNS 0 makes a vector.

   THREADS threads give the same request at once, the first that the session gets, and must get the same
   answer. It is printed as a line "id<TAB>score" for each result, with an empty line after each row. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

enum { MAX_INPUTS = 16, MAX_THREADS = 64 };

struct request {
  TF_Session *session;
  TF_Output inputs[MAX_INPUTS], outputs[2]; /* outputs: ids, scores */
  TF_Tensor *values[MAX_INPUTS];
  int n_inputs;
  pthread_barrier_t *barrier;
  TF_Tensor *answer[2];
};

static void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static void check(const TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* "name:0" -> the output 0 of the operation "name". */
static TF_Output output(TF_Graph *graph, const char *tensor) {
  const char *colon = strrchr(tensor, ':');
  if (!colon) fail(tensor, "should end in the number of the operation's output, as in name:0");
  char *name = strndup(tensor, (size_t)(colon - tensor));
  TF_Output found = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (!found.oper) fail(tensor, "no such tensor in the graph");
  free(name);
  return found;
}

static void free_strings(void *data, size_t size, void *unused) {
  (void)unused;
  TF_TString *strings = data;
  for (size_t i = 0; i < size / sizeof *strings; i++) TF_StringDealloc(&strings[i]);
  free(data);
}

static void free_floats(void *data, size_t size, void *unused) {
  (void)size, (void)unused;
  free(data);
}

static TF_Tensor *string_tensor(const int64_t *shape, int rank, size_t n, char **values) {
  TF_TString *data = calloc(n, sizeof *data);
  for (size_t i = 0; i < n; i++) {
    TF_StringInit(&data[i]);
    TF_StringCopy(&data[i], values[i], strlen(values[i]));
  }
  return TF_NewTensor(TF_STRING, shape, rank, data, n * sizeof *data, free_strings, NULL);
}

static TF_Tensor *float_tensor(const int64_t *shape, int rank, size_t n, char **values) {
  float *data = calloc(n, sizeof *data);
  for (size_t i = 0; i < n; i++) data[i] = strtof(values[i], NULL);
  return TF_NewTensor(TF_FLOAT, shape, rank, data, n * sizeof *data, free_floats, NULL);
}

/* Reads one input from the arguments, and returns where the next one begins. */
static char **read_input(struct request *request, TF_Graph *graph, char **argument, char **end) {
  if (end - argument < 4 || request->n_inputs == MAX_INPUTS) fail(*argument, "not an input");
  int64_t shape[2] = {atoll(argument[2]), atoll(argument[3])};
  int rank = shape[1] ? 2 : 1;
  size_t n = (size_t)(shape[0] * (shape[1] ? shape[1] : 1));
  char **values = argument + 4;
  if ((size_t)(end - values) < n) fail(argument[1], "fewer values than its shape asks for");
  int i = request->n_inputs++;
  request->inputs[i] = output(graph, argument[1]);
  request->values[i] = (strcmp(*argument, "strings") ? float_tensor : string_tensor)(shape, rank, n, values);
  return values + n;
}

static void *ask(void *argument) {
  struct request *request = argument;
  TF_Status *status = TF_NewStatus();
  pthread_barrier_wait(request->barrier);
  TF_SessionRun(request->session, NULL, request->inputs, request->values, request->n_inputs,
                request->outputs, request->answer, 2, NULL, 0, NULL, status);
  check(status, "query");
  TF_DeleteStatus(status);
  return NULL;
}

static size_t length(const TF_Tensor *tensor) { return (size_t)TF_TensorElementCount(tensor); }

static int same(TF_Tensor *const a[2], TF_Tensor *const b[2]) {
  const TF_TString *left = TF_TensorData(a[0]), *right = TF_TensorData(b[0]);
  if (length(a[0]) != length(b[0])) return 0;
  for (size_t i = 0; i < length(a[0]); i++) {
    size_t size = TF_StringGetSize(&left[i]);
    if (size != TF_StringGetSize(&right[i])) return 0;
    if (memcmp(TF_StringGetDataPointer(&left[i]), TF_StringGetDataPointer(&right[i]), size)) return 0;
  }
  return !memcmp(TF_TensorData(a[1]), TF_TensorData(b[1]), length(a[1]) * sizeof(float));
}

static void print_answer(TF_Tensor *const answer[2]) {
  const TF_TString *ids = TF_TensorData(answer[0]);
  const float *scores = TF_TensorData(answer[1]);
  size_t k = (size_t)TF_Dim(answer[0], 1);
  for (size_t i = 0; i < length(answer[0]); i++) {
    fwrite(TF_StringGetDataPointer(&ids[i]), 1, TF_StringGetSize(&ids[i]), stdout);
    printf("\t%.9g\n%s", (double)scores[i], (i + 1) % k ? "" : "\n");
  }
}

/* Whether a library whose name holds `name` is in the memory of this process. */
static int mapped(const char *name) {
  FILE *maps = fopen("/proc/self/maps", "r");
  if (!maps) fail("/proc/self/maps", "cannot be read");
  char line[8192];
  int found = 0;
  while (fgets(line, sizeof line, maps)) {
    const char *file = strrchr(line, '/');
    if (file && strstr(file, name)) found = 1;
  }
  fclose(maps);
  return found;
}

int main(int argc, char **argv) {
  if (argc < 6) fail(argv[0], "EXPORT OPS THREADS IDS SCORES [strings|floats TENSOR ROWS COLUMNS VALUE...]...");
  TF_Status *status = TF_NewStatus();
  TF_Library *ops = NULL;
  if (strcmp(argv[2], "-")) {
    ops = TF_LoadLibrary(argv[2], status);
    check(status, argv[2]);
  }
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  struct request request = {0};
  request.session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status, argv[1]);
  request.outputs[0] = output(graph, argv[4]);
  request.outputs[1] = output(graph, argv[5]);
  for (char **next = argv + 6; next < argv + argc;) next = read_input(&request, graph, next, argv + argc);

  int threads = atoi(argv[3]);
  if (threads < 1 || threads > MAX_THREADS) fail("THREADS", "should be 1 to 64");
  pthread_barrier_t barrier;
  pthread_t handles[MAX_THREADS];
  struct request requests[MAX_THREADS];
  pthread_barrier_init(&barrier, NULL, (unsigned)threads);
  request.barrier = &barrier;
  for (int i = 0; i < threads; i++) {
    requests[i] = request;
    if (pthread_create(&handles[i], NULL, ask, &requests[i])) fail("thread", "cannot be made");
  }
  for (int i = 0; i < threads; i++) pthread_join(handles[i], NULL);
  for (int i = 1; i < threads; i++)
    if (!same(requests[i].answer, requests[0].answer)) fail("threads", "got different answers");

  print_answer(requests[0].answer);
  if (mapped("python")) fail("process", "has a library of Python in it");
  if (!ops && mapped("scann")) fail("process", "has ScaNN in it, which was not asked for");

  for (int i = 0; i < threads; i++)
    for (int j = 0; j < 2; j++) TF_DeleteTensor(requests[i].answer[j]);
  for (int i = 0; i < request.n_inputs; i++) TF_DeleteTensor(request.values[i]);
  TF_CloseSession(request.session, status);
  TF_DeleteSession(request.session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  if (ops) TF_DeleteLibraryHandle(ops);
  TF_DeleteStatus(status);
  return 0;
}
