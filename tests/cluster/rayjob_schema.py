"""What a manifest of ours may say: the fields of KubeRay's ray.io/v1 RayJob and RayService, and of pods those we use.

Strict where the API server is lenient: it drops an unknown field in silence.  Field names and types are those of
KubeRay 1.7 (ray-operator/apis/ray/v1/rayjob_types.go, rayservice_types.go, raycluster_types.go) and Kubernetes core/v1.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"}


def _fields(required: tuple[str, ...] = (), **fields: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": fields}


def _map(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of}


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


METADATA = _fields(("name",), name=NAME, namespace=NAME, labels=_map(TEXT), annotations=_map(TEXT))
RESOURCES = _fields(requests=_map(QUANTITY), limits=_map(QUANTITY))
SECURITY = _fields(
    runAsNonRoot=FLAG,
    runAsUser=COUNT,
    fsGroup=COUNT,
    fsGroupChangePolicy={"enum": ["Always", "OnRootMismatch"]},
    seccompProfile=_fields(("type",), type={"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}),
    allowPrivilegeEscalation=FLAG,
    capabilities=_fields(drop=_list(TEXT), add=_list(TEXT)),
)
CONTAINER = _fields(
    ("name", "image", "resources"),
    securityContext=SECURITY,
    name=NAME,
    image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    env=_list(
        _fields(
            ("name",),
            name=TEXT,
            value=TEXT,
            valueFrom=_fields(secretKeyRef=_fields(("name", "key"), name=NAME, key=TEXT, optional=FLAG)),
        )
    ),
    ports=_list(_fields(("containerPort",), containerPort={"type": "integer", "minimum": 1}, name=NAME)),
    resources=RESOURCES,
    volumeMounts=_list(_fields(("name", "mountPath"), name=NAME, mountPath=TEXT, readOnly=FLAG)),
)
VOLUME = _fields(
    ("name",),
    name=NAME,
    persistentVolumeClaim=_fields(("claimName",), claimName=NAME, readOnly=FLAG),
    emptyDir=_fields(medium={"enum": ["", "Memory"]}, sizeLimit=QUANTITY),
)
POD_TEMPLATE = _fields(
    ("spec",),
    metadata=_fields(labels=_map(TEXT), annotations=_map(TEXT)),  # pods get their names of their group
    spec=_fields(
        ("containers",),
        containers=_list(CONTAINER),
        volumes=_list(VOLUME),
        securityContext=SECURITY,
        automountServiceAccountToken=FLAG,
        nodeSelector=_map(TEXT),
        serviceAccountName=NAME,
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        tolerations=_list(_fields(key=TEXT, operator=TEXT, value=TEXT, effect=TEXT)),
    ),
)
HEAD_GROUP = _fields(
    ("template",),
    rayStartParams=_map(TEXT),
    template=POD_TEMPLATE,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    enableIngress=FLAG,
)
WORKER_GROUP = _fields(
    ("groupName", "minReplicas", "maxReplicas", "template"),
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    suspend=FLAG,
    rayStartParams=_map(TEXT),
    template=POD_TEMPLATE,
)
RAY_CLUSTER = _fields(
    ("rayVersion", "headGroupSpec"),
    rayVersion=TEXT,
    authOptions=_fields(("mode",), mode={"enum": ["disabled", "token"]}, secretName=NAME),
    enableInTreeAutoscaling=FLAG,
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=_list(WORKER_GROUP),
    suspend=FLAG,
)
RAY_JOB = _fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=_fields(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        backoffLimit=COUNT,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        suspend=FLAG,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources=TEXT,
        clusterSelector=_map(TEXT),
        metadata=_map(TEXT),
        submitterPodTemplate=POD_TEMPLATE,
        submitterConfig=_fields(backoffLimit=COUNT),
        rayClusterSpec=RAY_CLUSTER,
    ),
)
RAY_SERVICE = _fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayService"},
    metadata=METADATA,
    spec=_fields(
        ("serveConfigV2", "rayClusterConfig"),
        serveConfigV2=TEXT,
        rayClusterConfig=RAY_CLUSTER,
        rayClusterDeletionDelaySeconds=COUNT,
        excludeHeadPodFromServeSvc=FLAG,
        suspend=FLAG,
        upgradeStrategy=_fields(type={"enum": ["NewCluster", "None", "NewClusterWithIncrementalUpgrade"]}),
        serveService={"type": "object"},
    ),
)
CLAIM = _fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=METADATA,
    spec=_fields(
        ("accessModes", "resources"),
        accessModes=_list({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"]}),
        resources=RESOURCES,
        storageClassName=NAME,
    ),
)
